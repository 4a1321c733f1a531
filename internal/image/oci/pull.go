package oci

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Progress is how far a pull is. Layers that are the same count once; bytes are
// counted as they are fetched.
type Progress struct {
	Layers, LayersDone int32
	Bytes, BytesDone   int64
}

// meter tells of progress, one call at a time.
type meter struct {
	tell func(Progress)
	mu   sync.Mutex
	now  Progress
}

func (m *meter) add(p Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.Layers += p.Layers
	m.now.LayersDone += p.LayersDone
	m.now.Bytes += p.Bytes
	m.now.BytesDone += p.BytesDone
	if m.tell != nil {
		m.tell(m.now)
	}
}

// Pull makes an image of ref. Layers are fetched some at a time into a folder
// of the store's that the call takes away again, and checked against their
// digests; one that breaks off goes on from there. tell, which may be nil, hears
// of each change, one call at a time, and returns soon. Errors as for Resolve, and those of Tree.ReadOCILayer and Store.Commit.
func (c *Client) Pull(ctx context.Context, s *image.Store, ref lehr.ImageRef, login Login, tell func(Progress)) (image.Imported, error) {
	if err := enter(ctx, c.pulls); err != nil {
		return image.Imported{}, err
	}
	defer func() { <-c.pulls }()
	var made image.Imported
	err := c.each(ctx, ref, login, func(ctx context.Context, at *session) (err error) {
		made, err = c.pull(ctx, s, at, &meter{tell: tell})
		return err
	})
	return made, err
}

func (c *Client) pull(ctx context.Context, s *image.Store, at *session, m *meter) (made image.Imported, err error) {
	pic, digest, err := c.picture(ctx, at, max(c.o.Answer, min(pullAnswer, 6*c.o.Answer)))
	if err != nil {
		return image.Imported{}, err
	}
	pic.source = "oci " + at.ref.Pinned(lehr.Digest(digest.String())).String()
	dir, err := s.Scratch()
	if err != nil {
		return image.Imported{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(layersAtOnce + 1)
	f := fetcher{client: c, session: at, dir: dir, meter: m, ready: map[v1.Hash]chan struct{}{}}
	f.plan(&pic)
	// The tree is made while later layers are still on their way.
	work.Go(func() error {
		var err error
		made, err = pic.build(ctx, s, c.o.Limits)
		return err
	})
	for _, d := range f.order {
		work.Go(func() error { return f.fetch(ctx, d) })
	}
	return made, work.Wait()
}

// fetcher brings the layers of one image into a folder.
type fetcher struct {
	client  *Client
	session *session
	dir     string
	meter   *meter
	order   []v1.Descriptor // each layer once
	ready   map[v1.Hash]chan struct{}
}

// plan makes the picture read its layers from the folder, once they are there.
func (f *fetcher) plan(p *picture) {
	for _, d := range p.manifest.Layers {
		if f.ready[d.Digest] == nil {
			f.ready[d.Digest] = make(chan struct{})
			f.order = append(f.order, d)
			f.meter.add(Progress{Layers: 1, Bytes: d.Size})
		}
		p.layers = append(p.layers, func(ctx context.Context) (io.ReadCloser, error) {
			if err := waitFor(ctx, f.ready[d.Digest]); err != nil {
				return nil, err
			}
			in, err := os.Open(f.file(d))
			if err != nil {
				return nil, image.DiskError(err, "oci.layer")
			}
			return in, nil
		})
	}
}

func waitFor(ctx context.Context, ready chan struct{}) error {
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *fetcher) file(d v1.Descriptor) string { return filepath.Join(f.dir, d.Digest.Hex) }

// fetch brings one layer, and goes on where it broke off as long as that gets
// further.
func (f *fetcher) fetch(ctx context.Context, d v1.Descriptor) error {
	out, err := os.OpenFile(f.file(d), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return image.DiskError(err, "oci.layer")
	}
	defer func() { _ = out.Close() }()
	l := arriving{file: out, want: d, sum: sha256.New(), meter: f.meter}
	pause := f.client.o.Pause
	for try, breaks := 1, 1; ; try, breaks = try+1, breaks+1 {
		before := l.have
		err := f.more(ctx, &l)
		var again *temporary
		switch {
		case err == nil:
			f.meter.add(Progress{LayersDone: 1})
			close(f.ready[d.Digest])
			return nil
		case !errors.As(err, &again):
			return err
		case l.have > before && breaks < layerBreaks:
			try, pause = 0, f.client.o.Pause
		case try >= layerTries || breaks >= layerBreaks:
			return again.err
		}
		if err := wait(ctx, max(pause, min(again.after, maxPause))); err != nil {
			return err
		}
		pause *= 2
	}
}

// more reads on from where the layer is.
func (f *fetcher) more(ctx context.Context, l *arriving) error {
	s := f.session
	res, err := s.get(context.WithValue(ctx, blobKey{}, true), "blobs/"+l.want.Digest.String(), l.have)
	if err != nil {
		return s.explain(ctx, err)
	}
	defer func() { _ = res.Body.Close() }()
	if l.have > 0 && res.StatusCode == http.StatusOK {
		if err := l.restart(); err != nil { // the registry knows no ranges
			return err
		}
	}
	if err := l.read(res.Body); err != nil {
		return s.explain(ctx, err)
	}
	switch got := lehr.DigestFrom(l.sum); {
	case l.have < l.want.Size:
		return s.explain(ctx, fmt.Errorf("layer %s broke off after %d of %d bytes", l.want.Digest, l.have, l.want.Size))
	case string(got) != l.want.Digest.String():
		return errs.New(errs.Invalid, "registry %s sends layer %s with the digest %s", s.at, l.want.Digest, got).WithCode(CodeDigest)
	}
	return nil
}

// arriving is one layer on its way. One goroutine owns it.
type arriving struct {
	file  *os.File
	want  v1.Descriptor
	sum   hash.Hash
	have  int64
	meter *meter
}

// restart forgets what is there.
func (l *arriving) restart() error {
	l.meter.add(Progress{BytesDone: -l.have})
	l.have = 0
	l.sum.Reset()
	if _, err := l.file.Seek(0, io.SeekStart); err != nil {
		return image.DiskError(err, "oci.layer")
	}
	return image.DiskError(l.file.Truncate(0), "oci.layer")
}

const fetchBuffer = 256 << 10

// read appends what comes, at most what the layer may have.
func (l *arriving) read(r io.Reader) error {
	buf := make([]byte, fetchBuffer)
	for {
		n, err := r.Read(buf)
		if l.have+int64(n) > l.want.Size {
			return errs.New(errs.Invalid, "layer %s has more than the %d bytes that its manifest says", l.want.Digest, l.want.Size).WithCode(CodeDigest)
		}
		if _, err := l.file.Write(buf[:n]); err != nil {
			return image.DiskError(err, "oci.layer")
		}
		l.sum.Write(buf[:n])
		l.have += int64(n)
		l.meter.add(Progress{BytesDone: int64(n)})
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
