package world

import (
	"bufio"
	"io"
	"strings"
)

// awaitUp reads what lehr up writes and returns once it says that it is up, or
// has ended. The rest comes through the channel when it ends.
func awaitUp(r io.Reader) <-chan string {
	up := make(chan struct{})
	rest := make(chan string, 1)
	go func() {
		var text strings.Builder
		told := false
		for sc := bufio.NewScanner(r); sc.Scan(); {
			text.WriteString(sc.Text() + "\n")
			if !told && strings.HasPrefix(sc.Text(), "lehr is up at ") {
				told = true
				close(up)
			}
		}
		if !told {
			close(up)
		}
		rest <- text.String()
	}()
	<-up
	return rest
}
