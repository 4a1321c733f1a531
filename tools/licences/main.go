// Licences writes third_party/licences.txt: the licence and notice texts of
// every module that is linked into the programs of Lehr. With -check it writes
// nothing and fails where the file is out of date. It always fails on a module
// without a licence file, or with a licence that Lehr does not accept.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

// output is where the texts are kept, below the root.
const output = "third_party/licences.txt"

func main() {
	root := flag.String("root", "..", "folder of the main module")
	check := flag.Bool("check", false, "fail where "+output+" is out of date, instead of writing it")
	flag.Parse()
	if err := run(*root, *check); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

func run(root string, check bool) error {
	modules, err := linked(root)
	if err != nil {
		return err
	}
	var refused []error
	for _, m := range modules {
		if err := m.read(); err != nil {
			return err
		}
		refused = append(refused, m.accept())
	}
	if err := errors.Join(refused...); err != nil {
		return err
	}
	text := render(modules)
	path := filepath.Join(root, output)
	if !check {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, text, 0o644)
	}
	have, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !bytes.Equal(have, text) {
		return errors.New(output + " is out of date; run: go -C tools run ./licences")
	}
	return nil
}
