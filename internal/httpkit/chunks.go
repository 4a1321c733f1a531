package httpkit

// ChunkReader is an io.Reader over the data of a stream of messages. It is for
// one goroutine.
type ChunkReader struct {
	Rest []byte                 // of the message at hand
	Next func() ([]byte, error) // data of the next message; io.EOF at their end
}

// Read implements io.Reader; empty messages are passed over.
func (c *ChunkReader) Read(p []byte) (int, error) {
	for len(c.Rest) == 0 {
		var err error
		if c.Rest, err = c.Next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.Rest)
	c.Rest = c.Rest[n:]
	return n, nil
}
