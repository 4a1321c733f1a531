package image

import (
	"io"
	"os"

	"github.com/lehr-dev/lehr/internal/image/erofs"
)

const spoolBuffer = 1 << 20

// spool holds the contents of files that came in as a stream until the image is
// written, in a file without a name: it ends with the process whatever happens.
type spool struct {
	file *os.File
	off  int64 // of the end of what is in file
	buf  []byte
}

// newSpool makes an empty spool in dir.
func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, tempSpool+"*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &spool{file: f, buf: make([]byte, 0, spoolBuffer)}, nil
}

// add appends exactly size bytes of r and returns where they will be once the
// spool was flushed. A failure of r comes back as it is.
func (s *spool) add(r io.Reader, size int64) (erofs.Content, error) {
	c := erofs.Content{Src: s.file, Off: s.off + int64(len(s.buf)), Size: size}
	for size > 0 {
		if len(s.buf) == cap(s.buf) {
			if err := s.flush(); err != nil {
				return c, err
			}
		}
		free := s.buf[len(s.buf):cap(s.buf)]
		n, err := io.ReadFull(r, free[:min(size, int64(len(free)))])
		s.buf = s.buf[:len(s.buf)+n]
		size -= int64(n)
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// flush makes everything added readable.
func (s *spool) flush() error {
	n, err := s.file.WriteAt(s.buf, s.off)
	s.off += int64(n)
	if err != nil {
		return DiskError(err, "image.spool")
	}
	s.buf = s.buf[:0]
	return nil
}

func (s *spool) close() error { return s.file.Close() }
