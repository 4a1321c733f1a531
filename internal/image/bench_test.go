package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// The shape of the benchmarks: a base like a small Debian and a layer like an
// installed interpreter.
const (
	benchBaseFiles, benchBaseBytes   = 9000, 190 << 20
	benchLayerFiles, benchLayerBytes = 3000, 50 << 20
)

// benchTar returns a tar of files in folders of 50, with total bytes of
// content, most of it in few files.
func benchTar(tb testing.TB, prefix string, files, total int) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	rng := rand.New(rand.NewPCG(1, 2))
	content := make([]byte, total/20+1)
	for i := range content {
		content[i] = byte(rng.Uint32())
	}
	left := total
	put := func(h *tar.Header, size int) {
		h.Size, h.ModTime = int64(size), time.Unix(1_700_000_000, 0)
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(content[:size]); err != nil {
			tb.Fatal(err)
		}
	}
	for i := range files {
		if i%50 == 0 {
			put(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("./%s%03d/", prefix, i/50), Mode: 0o755}, 0)
		}
		size := min(left, 4000)
		if i%(files/19) == 0 {
			size = min(left, total/20)
		}
		left -= size
		put(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("./%s%03d/%04d", prefix, i/50, i), Mode: 0o644}, size)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func BenchmarkImportTar190MB(b *testing.B) {
	s := open(b)
	in := benchTar(b, "base", benchBaseFiles, benchBaseBytes)
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		made, err := s.ImportTar(b.Context(), bytes.NewReader(in), Limits{})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Remove(made.Digest); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkFlatten190MBAnd50MB(b *testing.B) {
	s := open(b)
	base, err := s.ImportTar(b.Context(), bytes.NewReader(benchTar(b, "base", benchBaseFiles, benchBaseBytes)), Limits{})
	if err != nil {
		b.Fatal(err)
	}
	layer := benchTar(b, "layer", benchLayerFiles, benchLayerBytes)
	b.SetBytes(base.Size + int64(len(layer)))
	for b.Loop() {
		info, err := s.Flatten(b.Context(), base.Digest, bytes.NewReader(layer), Limits{})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Remove(info.Digest); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
