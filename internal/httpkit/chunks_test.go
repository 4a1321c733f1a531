package httpkit

import (
	"io"
	"testing"
	"testing/iotest"
)

func TestChunkReader(t *testing.T) {
	rest := []string{"", "two ", "", "three"}
	r := &ChunkReader{Rest: []byte("one "), Next: func() ([]byte, error) {
		if len(rest) == 0 {
			return nil, io.EOF
		}
		next := rest[0]
		rest = rest[1:]
		return []byte(next), nil
	}}
	if err := iotest.TestReader(r, []byte("one two three")); err != nil {
		t.Error(err)
	}
}
