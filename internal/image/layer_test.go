package image

import (
	"bytes"
	"os/exec"
	"testing"
)

func runCommand(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	return string(out), err
}

// lower is the layer below those of the tests.
func lower() []item {
	return []item{
		dirItem("d/"), fileItem("d/old", "old"), dirItem("d/sub/"), fileItem("d/sub/deep", "deep"),
		fileItem("f", "lower f"), linkItem("hard", "f"), symlinkItem("lib", "usr/lib"), dirItem("usr/lib/"),
	}
}

// lowerListing describes lower.
var lowerListing = map[string]string{
	"d": "/d 040755 1 0:0", "d/old": `/d/old 100644 1 0:0 "old"`, "d/sub": "/d/sub 040755 1 0:0",
	"d/sub/deep": `/d/sub/deep 100644 1 0:0 "deep"`, "f": `/f 100644 2 0:0 "lower f"`, "hard": `/hard 100644 2 0:0 "lower f"`,
	"lib": "/lib 120777 1 0:0 usr/lib", "usr": "/usr 040755 1 0:0", "usr/lib": "/usr/lib 040755 1 0:0",
}

// change is what a layer does to lower.
type change struct {
	layer []item
	gone  []string          // names of lowerListing
	now   map[string]string // by name
}

// check reads the layer over lower with read and compares.
func (c change) check(t *testing.T, read func(*Store, []byte) Info) {
	t.Helper()
	s := open(t)
	want := make(map[string]string)
	for name, line := range lowerListing {
		want[name] = line
	}
	for _, name := range c.gone {
		delete(want, name)
	}
	for name, line := range c.now {
		want[name] = line
	}
	lines := make([]string, 0, len(want))
	for _, line := range want {
		lines = append(lines, line)
	}
	wantListing(t, s, read(s, archiveOf(t, c.layer...)).Digest, lines...)
}

func TestOCILayers(t *testing.T) {
	t.Parallel()
	newDir := dirItem("d/")
	newDir.Mode, newDir.Uid = 0o700, 5
	tests := map[string]change{
		"whiteout of a name":       {layer: []item{fileItem(".wh.f", "")}, gone: []string{"f"}, now: map[string]string{"hard": `/hard 100644 1 0:0 "lower f"`}},
		"whiteout of a directory":  {layer: []item{fileItem(".wh.d", "")}, gone: []string{"d", "d/old", "d/sub", "d/sub/deep"}},
		"whiteout of nothing":      {layer: []item{fileItem("nowhere/.wh.f", "")}},
		"whiteout through a link":  {layer: []item{fileItem("usr/lib/x", ""), fileItem("lib/.wh.x", "")}, now: map[string]string{"x": `/usr/lib/x 100644 1 0:0 ""`}},
		"opaque before":            {layer: []item{dirItem("d/"), fileItem("d/.wh..wh..opq", ""), fileItem("d/new", "n")}, gone: []string{"d/old", "d/sub", "d/sub/deep"}, now: map[string]string{"n": `/d/new 100644 1 0:0 "n"`}},
		"opaque after":             {layer: []item{fileItem("d/new", "n"), fileItem("d/sub/new", "n"), fileItem("d/.wh..wh..opq", "")}, gone: []string{"d/old", "d/sub/deep"}, now: map[string]string{"n": `/d/new 100644 1 0:0 "n"`, "s": `/d/sub/new 100644 1 0:0 "n"`}},
		"whiteout and replacement": {layer: []item{fileItem("f", "upper"), fileItem(".wh.f", "")}, now: map[string]string{"f": `/f 100644 1 0:0 "upper"`, "hard": `/hard 100644 1 0:0 "lower f"`}},
		"bookkeeping of AUFS":      {layer: []item{dirItem(".wh..wh.plnk/"), fileItem(".wh..wh.plnk/1.2", "x"), fileItem(".wh..wh.aufs", "")}},
		"attributes of a directory": {
			layer: []item{newDir}, now: map[string]string{"d": "/d 040700 1 5:0"},
		},
		"directory over a file":    {layer: []item{dirItem("f/")}, now: map[string]string{"f": "/f 040755 1 0:0", "hard": `/hard 100644 1 0:0 "lower f"`}},
		"file over a directory":    {layer: []item{fileItem("d", "")}, gone: []string{"d/old", "d/sub", "d/sub/deep"}, now: map[string]string{"d": `/d 100644 1 0:0 ""`}},
		"hard link to below":       {layer: []item{linkItem("more", "/d/old")}, now: map[string]string{"m": `/more 100644 2 0:0 "old"`, "d/old": `/d/old 100644 2 0:0 "old"`}},
		"absolute name":            {layer: []item{fileItem("/abs", "a")}, now: map[string]string{"a": `/abs 100644 1 0:0 "a"`}},
		"name through a link":      {layer: []item{fileItem("lib/x.so", "so")}, now: map[string]string{"so": `/usr/lib/x.so 100644 1 0:0 "so"`}},
		"link that leaves":         {layer: []item{symlinkItem("out", "../../../usr"), fileItem("out/x", "x")}, now: map[string]string{"o": "/out 120777 1 0:0 ../../../usr", "x": `/usr/x 100644 1 0:0 "x"`}},
		"the last of two counts":   {layer: []item{fileItem("two", "1"), fileItem("two", "2")}, now: map[string]string{"2": `/two 100644 1 0:0 "2"`}},
		"an empty layer":           {},
		"directory over a link":    {layer: []item{dirItem("lib/"), fileItem("lib/y", "")}, now: map[string]string{"lib": "/lib 040755 1 0:0", "y": `/lib/y 100644 1 0:0 ""`}},
		"whiteout of the root dir": {layer: []item{fileItem(".wh..wh..opq", ""), fileItem("only", "")}, gone: []string{"d", "d/old", "d/sub", "d/sub/deep", "f", "hard", "lib", "usr", "usr/lib"}, now: map[string]string{"o": `/only 100644 1 0:0 ""`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.check(t, func(s *Store, layer []byte) Info {
				return commitLayers(t, s, archiveOf(t, lower()...), layer)
			})
		})
	}
}

// commitLayers makes an image from OCI layers.
func commitLayers(t *testing.T, s *Store, layers ...[]byte) Info {
	t.Helper()
	tree, err := s.NewTree(Limits{})
	if err != nil {
		t.Fatalf("NewTree() = %v", err)
	}
	defer func() { _ = tree.Close() }()
	for _, l := range layers {
		if err := tree.ReadOCILayer(t.Context(), bytes.NewReader(l)); err != nil {
			t.Fatalf("ReadOCILayer() = %v", err)
		}
	}
	info, err := s.Commit(t.Context(), tree)
	if err != nil {
		t.Fatalf("Commit() = %v", err)
	}
	return info
}

func TestFlatten(t *testing.T) {
	t.Parallel()
	all := []string{"d", "d/old", "d/sub", "d/sub/deep"}
	tests := map[string]change{
		"nothing":                     {},
		"root alone":                  {layer: []item{dirItem("./")}},
		"new and changed":             {layer: []item{dirItem("./d/"), fileItem("./d/new", "n"), fileItem("./f", "upper f")}, now: map[string]string{"n": `/d/new 100644 1 0:0 "n"`, "f": `/f 100644 1 0:0 "upper f"`, "hard": `/hard 100644 1 0:0 "lower f"`}},
		"whiteout":                    {layer: []item{charItem("./d", 0, 0)}, gone: all},
		"whiteouts as hard links":     {layer: []item{charItem("./d", 0, 0), linkItem("./hard", "./d"), linkItem("./f", "./hard")}, gone: append(all[:4:4], "f", "hard")},
		"opaque":                      {layer: []item{opaque(dirItem("./d/")), fileItem("./d/new", "n")}, gone: all[1:], now: map[string]string{"n": `/d/new 100644 1 0:0 "n"`}},
		"opaque on a new directory":   {layer: []item{opaque(dirItem("./n/")), opaque(dirItem("./n/m/"))}, now: map[string]string{"n": "/n 040755 1 0:0", "m": "/n/m 040755 1 0:0"}},
		"hard links of its own":       {layer: []item{fileItem("./a", "a"), linkItem("./b", "./a")}, now: map[string]string{"a": `/a 100644 2 0:0 "a"`, "b": `/b 100644 2 0:0 "a"`}},
		"directory over a link":       {layer: []item{opaque(dirItem("./lib/")), fileItem("./lib/x", "")}, now: map[string]string{"lib": "/lib 040755 1 0:0", "x": `/lib/x 100644 1 0:0 ""`}},
		"real device":                 {layer: []item{charItem("./null", 1, 3)}, now: map[string]string{"n": "/null 020600 1 0:0 1:3"}},
		"files named like whiteouts":  {layer: []item{fileItem("./.wh.f", "")}, now: map[string]string{"w": `/.wh.f 100644 1 0:0 ""`}},
		"the machine's own":           {layer: []item{dirItem("./.lehr/"), fileItem("./.lehr/init", ""), dirItem("./proc/"), fileItem("./proc/x", ""), dirItem("./dev/"), charItem("./dev/shm", 0, 0), dirItem("./sys/")}, now: map[string]string{"p": "/proc 040755 1 0:0", "s": "/sys 040755 1 0:0", "dev": "/dev 040755 1 0:0"}},
		"temporary files of the step": {layer: []item{dirItem("./tmp/"), fileItem("./tmp/kept", "k")}, now: map[string]string{"t": "/tmp 040755 1 0:0", "k": `/tmp/kept 100644 1 0:0 "k"`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.check(t, func(s *Store, layer []byte) Info {
				base := importItems(t, s, lower()...)
				info, err := s.Flatten(t.Context(), base.Digest, bytes.NewReader(layer), Limits{})
				if err != nil {
					t.Fatalf("Flatten() = %v", err)
				}
				return info
			})
		})
	}
}

func TestFlattenOfNothingIsTheBase(t *testing.T) {
	t.Parallel()
	s := open(t)
	base := importItems(t, s, lower()...)
	info, err := s.Flatten(t.Context(), base.Digest, bytes.NewReader(archiveOf(t)), Limits{})
	if err != nil || info != base.Info {
		t.Errorf("Flatten(base, nothing) = %+v, %v, want %+v", info, err, base.Info)
	}
}

func TestOverlay(t *testing.T) {
	t.Parallel()
	s := open(t)
	tree, err := s.NewTree(Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tree.Close() }()
	if err := tree.ReadArchive(t.Context(), bytes.NewReader(archiveOf(t, lower()...))); err != nil {
		t.Fatal(err)
	}
	files := []File{{Path: "/lib/new", Mode: 0o600, Data: []byte("n")}, {Path: "f", Mode: 0o644, Data: []byte("ours")}}
	if err := tree.Overlay(files...); err != nil {
		t.Fatalf("Overlay() = %v", err)
	}
	if err := tree.Overlay(File{Path: "f/x"}); err == nil {
		t.Error("Overlay(through a file) = nil, want an error")
	}
	info, err := s.Commit(t.Context(), tree)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"usr/lib/new": "n", "f": "ours", "hard": "lower f"} {
		if got, err := s.ReadFile(t.Context(), info.Digest, name, 100); err != nil || string(got) != want {
			t.Errorf("ReadFile(%s) = %q, %v, want %q", name, got, err, want)
		}
	}
}
