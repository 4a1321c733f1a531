package hostrpc

import (
	"errors"
	"io"
)

// chunkWriter sends what is written in messages of at most chunkBytes.
type chunkWriter func([]byte) error

func (send chunkWriter) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); {
		n := min(chunkBytes, len(p)-sent)
		if err := send(p[sent : sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return len(p), nil
}

// sendAll reads r to its end and hands it to send piece by piece. An error of
// send that is io.EOF means the other side has answered already: the answer
// says why, so it is not an error here.
func sendAll(r io.Reader, send func([]byte) error) error {
	buf := make([]byte, chunkBytes)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if serr := send(buf[:n]); errors.Is(serr, io.EOF) {
				return nil
			} else if serr != nil {
				return serr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
