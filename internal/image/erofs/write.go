package erofs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
)

const (
	magic          = 0xe0f5e1e2
	compatChecksum = 1 << 0 // the superblock's checksum is set
	compatMtime    = 1 << 1 // inodes hold modification times
	checksumAt     = superOffset + 4

	extended     = 1 // an inode of 64 bytes
	layoutPlain  = 0 << 1
	layoutInline = 2 << 1

	bufferSize = 1 << 20
)

// Image is a planned image, ready to be written.
type Image struct{ p *plan }

// Plan lays out the tree below root, which must not change until the image was
// written. The error names the path that cannot be written.
func Plan(root *Node) (*Image, error) {
	p, err := newPlan(root)
	if err != nil {
		return nil, err
	}
	if p.end>>blockBits > math.MaxUint32 {
		return nil, fmt.Errorf("an image of %d bytes is larger than the format allows", p.end)
	}
	return &Image{p}, nil
}

// Size returns the image's size in bytes, a multiple of the block size.
func (m *Image) Size() int64 { return m.p.end }

// Inodes returns how many inodes the image has.
func (m *Image) Inodes() int { return len(m.p.inodes) }

// Write writes the image front to back, in pieces of up to 1 MiB. It fails when
// a content ends before its size, when w fails, and with ctx's cause when ctx
// ends.
func (m *Image) Write(ctx context.Context, w io.Writer) error {
	e := &emitter{ctx: ctx, w: w, buf: make([]byte, 0, bufferSize)}
	e.write(superblock(m.p))
	for _, i := range m.p.inodes {
		e.padTo(i.offset)
		e.write(i.encode(m.p))
		if i.inline > 0 {
			e.write(i.data()[i.outOfLine():])
		}
	}
	e.padTo(m.p.meta)
	m.emitBlocks(e, false)
	m.emitBlocks(e, true)
	e.flush()
	return e.err
}

// emitBlocks writes the data blocks of the files, or of everything else.
func (m *Image) emitBlocks(e *emitter, files bool) {
	for _, i := range m.p.inodes {
		if i.node.IsRegular() != files || i.outOfLine() == 0 || e.err != nil {
			continue
		}
		e.padTo(i.block << blockBits)
		if files {
			e.copy(i.node.Content)
		} else {
			e.write(i.data()[:i.outOfLine()])
		}
		e.padTo(align(e.off, blockSize))
	}
}

// superblock returns the first block. It holds no time and no random id: the
// image is named by its digest.
func superblock(p *plan) []byte {
	b := make([]byte, blockSize)
	le, s := binary.LittleEndian, b[superOffset:]
	le.PutUint32(s[0:], magic)
	le.PutUint32(s[8:], compatChecksum|compatMtime)
	s[12] = blockBits
	le.PutUint16(s[14:], uint16(p.inodes[0].nid()))
	le.PutUint64(s[16:], uint64(len(p.inodes)))
	le.PutUint32(s[36:], uint32(p.end>>blockBits))
	sum := crc32.Checksum(s, crc32.MakeTable(crc32.Castagnoli))
	le.PutUint32(b[checksumAt:], ^sum) // the kernel's crc32c does not invert its result
	return b
}

// encode returns the inode's 64 bytes.
func (i *inode) encode(p *plan) []byte {
	n, le, b := i.node, binary.LittleEndian, make([]byte, inodeSize)
	format := uint16(extended | layoutPlain)
	if i.inline > 0 {
		format = extended | layoutInline
	}
	le.PutUint16(b[0:], format)
	le.PutUint16(b[4:], uint16(n.Mode))
	le.PutUint64(b[8:], uint64(i.size))
	le.PutUint32(b[16:], uint32(i.block))
	if n.IsDevice() {
		le.PutUint32(b[16:], n.Rdev)
	}
	le.PutUint32(b[20:], uint32(i.nid())) // the number that 32-bit programs see
	le.PutUint32(b[24:], n.UID)
	le.PutUint32(b[28:], n.GID)
	le.PutUint64(b[32:], uint64(n.Sec))
	le.PutUint32(b[40:], n.Nsec)
	le.PutUint32(b[44:], i.nlink)
	return b
}

// data returns the data of a directory or symbolic link.
func (i *inode) data() []byte {
	if i.node.IsSymlink() {
		return []byte(i.node.Target)
	}
	out := make([]byte, 0, i.size)
	first := 0
	for _, end := range i.blocks {
		out = append(out, make([]byte, int(align(int64(len(out)), blockSize))-len(out))...)
		out = i.appendDirents(out, first, end)
		first = end
	}
	return out
}

// appendDirents appends one directory block with the entries from first to
// end: a table of fixed-size entries, then their names.
func (i *inode) appendDirents(out []byte, first, end int) []byte {
	nameOff := (end - first) * direntSize
	for k := first; k < end; k++ {
		to := i.kids[k]
		switch i.names[k] {
		case ".":
			to = i
		case "..":
			to = i.parent
		}
		out = binary.LittleEndian.AppendUint64(out, to.nid())
		out = binary.LittleEndian.AppendUint16(out, uint16(nameOff))
		out = append(out, direntType(to.node), 0)
		nameOff += len(i.names[k])
	}
	for _, name := range i.names[first:end] {
		out = append(out, name...)
	}
	return out
}

// direntType returns the type byte of a directory entry (FT_REG_FILE = 1 and
// so on).
func direntType(n *Node) byte {
	const regular, dir, char, block, fifo, socket, link = 1, 2, 3, 4, 5, 6, 7
	return [16]byte{1: fifo, 2: char, 4: dir, 6: block, 8: regular, 10: link, 12: socket}[n.Type()>>12]
}

// emitter writes in large pieces; the first error sticks.
type emitter struct {
	ctx context.Context
	w   io.Writer
	buf []byte
	off int64
	err error
}

// room returns the free part of the buffer, at most n bytes of it and never
// none, flushing first when it is full.
func (e *emitter) room(n int64) []byte {
	if len(e.buf) == cap(e.buf) {
		e.flush()
	}
	free := e.buf[len(e.buf):cap(e.buf)]
	return free[:min(n, int64(len(free)))]
}

// took says that the next n bytes of the buffer were filled.
func (e *emitter) took(n int) {
	e.buf = e.buf[:len(e.buf)+n]
	e.off += int64(n)
}

func (e *emitter) write(p []byte) {
	for len(p) > 0 && e.err == nil {
		n := copy(e.room(int64(len(p))), p)
		e.took(n)
		p = p[n:]
	}
}

func (e *emitter) padTo(off int64) {
	for e.off < off && e.err == nil {
		free := e.room(off - e.off)
		clear(free)
		e.took(len(free))
	}
}

func (e *emitter) copy(c Content) {
	for done := int64(0); done < c.Size && e.err == nil; {
		free := e.room(c.Size - done)
		n, err := c.Src.ReadAt(free, c.Off+done)
		if n < len(free) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			e.err = fmt.Errorf("read file content: %w", err)
			return
		}
		e.took(n)
		done += int64(n)
	}
}

func (e *emitter) flush() {
	if e.err == nil {
		e.err = context.Cause(e.ctx)
	}
	if e.err == nil {
		_, e.err = e.w.Write(e.buf)
	}
	e.buf = e.buf[:0]
}
