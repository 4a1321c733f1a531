// Package probewire is the tiny protocol between the engine suite and its
// probe: one JSON line with a verb, one JSON line back, on a TCP port of the
// sandbox. It is a package of its own because the probe must not link the
// testing package, and because the fake engine answers it too.
package probewire

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
)

// Port is the TCP port that the probe listens on.
const Port = 7070

// Path is where the probe lies in every sandbox.
const Path = "/.lehr/probe"

// Init returns the argv of the probe as a sandbox's first process.
func Init() []string { return []string{Path, "serve"} }

// maxLine bounds what either side reads; both sides may be hostile to the other.
const maxLine = 1 << 20

// Request is one verb with its arguments.
type Request struct {
	Verb string   `json:"verb"`
	Args []string `json:"args"`
}

// Reply is what the probe answers. Err names an errno first where there is one,
// as "ENOSPC: no space left on device"; Out may be set beside it.
type Reply struct {
	Out string `json:"out"`
	Err string `json:"err"`
}

// Write sends v as one line.
func Write(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode probe message: %w", err)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// Read reads one line into v.
func Read(r io.Reader, v any) error {
	line, err := bufio.NewReader(io.LimitReader(r, maxLine)).ReadBytes('\n')
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("decode probe message: %w", err)
	}
	return nil
}
