// Command lehr is the whole of Lehr: server roles and command line in one file.
package main

import (
	"os"

	"github.com/lehr-dev/lehr/internal/cli"
)

func main() {
	os.Exit(cli.Program())
}
