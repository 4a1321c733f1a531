package gvisor

import (
	"fmt"
	"os"
)

// firstFD is the descriptor in the child of the first file of exec.Cmd's
// ExtraFiles.
const firstFD = 3

// donations collects the files that a sentry is born with and the flags that
// tell it their numbers. It is used by one goroutine.
type donations struct {
	files   []*os.File
	pending []string
}

// add donates file under flag and takes ownership of our end.
func (d *donations) add(flag string, file *os.File) {
	d.pending = append(d.pending, fmt.Sprintf("--%s=%d", flag, firstFD+len(d.files)))
	d.files = append(d.files, file)
}

// share names the last donated file under a second flag.
func (d *donations) share(flag string) {
	d.pending = append(d.pending, fmt.Sprintf("--%s=%d", flag, firstFD+len(d.files)-1))
}

// flags returns the flags of what was added since the last call: some must
// stand before the command's name and some behind it.
func (d *donations) flags() []string {
	flags := d.pending
	d.pending = nil
	return flags
}

// close closes our ends; it may be called again.
func (d *donations) close() {
	for _, f := range d.files {
		_ = f.Close()
	}
	d.files = nil
}
