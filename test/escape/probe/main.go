// Command probe tries one way out of a sandbox, or listens as one. It runs
// inside:
//
//	probe try ID < env.json     one attempt of test/escape/corpus, as JSON
//	probe listen PORT           counts who comes and tells each how many came before
//	probe ask PORT              visits such a listener in the same sandbox
//	probe abuse KIND AMOUNT     behaves badly
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/lehr-dev/lehr/test/escape/corpus"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 2 && args[0] == "listen" {
		return corpus.Listen(args[1])
	}
	if len(args) == 2 && args[0] == "ask" {
		return corpus.Ask(args[1])
	}
	if len(args) == 3 && args[0] == "abuse" {
		return corpus.Abuse(args[1], args[2])
	}
	if len(args) != 2 || args[0] != "try" {
		return fmt.Errorf("usage: probe try ID | probe listen PORT | probe ask PORT | probe abuse KIND AMOUNT")
	}
	var env corpus.Env
	if err := json.NewDecoder(os.Stdin).Decode(&env); err != nil {
		return err
	}
	report, err := corpus.Run(args[1], env)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(report)
}
