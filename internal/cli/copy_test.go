package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/api/gen/envd/filesystem"
	"github.com/lehr-dev/lehr/api/gen/envd/filesystem/filesystemconnect"
	"github.com/lehr-dev/lehr/api/gen/envd/process/processconnect"
	"github.com/lehr-dev/lehr/internal/errs"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// makeTree fills a folder with what a copy has to keep.
func makeTree(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{"", "deep/er/est", "empty", "odd name ü\n$(x)"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for name, mode := range map[string]fs.FileMode{
		"file": 0o644, "run.sh": 0o755, "secret": 0o600, "deep/er/est/read-only": 0o444, "odd name ü\n$(x)/-rf": 0o640, "zero": 0o644,
	} {
		content := []byte("content of " + name)
		if name == "zero" {
			content = nil
		}
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
		must(t, os.Chmod(filepath.Join(dir, name), mode))
	}
	must(t, os.WriteFile(filepath.Join(dir, "big"), bytes.Repeat([]byte("0123456789abcdef"), 1<<17), 0o644))
	must(t, os.Symlink("../file", filepath.Join(dir, "deep", "link")))
	must(t, os.Symlink("deep/er", filepath.Join(dir, "to-folder")))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	must(t, os.Chmod(filepath.Join(dir, "empty"), 0o700))
	must(t, os.Chmod(filepath.Join(dir, "deep", "er"), 0o555))
}

// picture is a tree as text: names, modes, targets and contents.
func picture(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	must(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		fmt.Fprintf(&all, "%v %q", info.Mode(), rel)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			fmt.Fprintf(&all, " -> %s", target)
		case info.Mode().IsRegular():
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			fmt.Fprintf(&all, " %d %.40q", len(b), b)
		}
		all.WriteString("\n")
		return nil
	}))
	return all.String()
}

// noLeftovers wants no temporary name below a folder.
func noLeftovers(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(name string, _ fs.DirEntry, _ error) error {
			if strings.HasPrefix(filepath.Base(name), ".lehr-cp-") {
				t.Errorf("%s was left behind", name)
			}
			return nil
		})
	}
}

func TestCopyTreeInAndOut(t *testing.T) {
	t.Parallel()
	i := newInside(t, nil)
	src, box, back := t.TempDir(), t.TempDir(), t.TempDir()
	makeTree(t, src)
	want := picture(t, src)
	// In: to a new name, into a folder, and onto what is there already.
	for range 2 {
		i.command("sandbox", "cp", src, boxID+":"+box).run(t).ends(ExitOK)
		if got := picture(t, filepath.Join(box, filepath.Base(src))); got != want {
			t.Errorf("copied in =\n%s\nwant\n%s", got, want)
		}
	}
	i.command("sandbox", "cp", src+"/", boxID+":"+box+"/new/one").run(t).ends(ExitOK)
	if got := picture(t, filepath.Join(box, "new", "one")); got != want {
		t.Errorf("copied in to a new name =\n%s\nwant\n%s", got, want)
	}
	// Out, likewise; the id by its beginning.
	for range 2 {
		i.command("sandbox", "cp", "sb01:"+box+"/new/one", back).run(t).ends(ExitOK)
		if got := picture(t, filepath.Join(back, "one")); got != want {
			t.Errorf("copied out =\n%s\nwant\n%s", got, want)
		}
	}
	i.command("sandbox", "cp", boxID+":"+box+"/new/one", filepath.Join(back, "named")).run(t).ends(ExitOK)
	if got := picture(t, filepath.Join(back, "named")); got != want {
		t.Errorf("copied out to a new name =\n%s\nwant\n%s", got, want)
	}
	noLeftovers(t, box, back)
}

func TestCopyFiles(t *testing.T) {
	t.Parallel()
	i := newInside(t, nil)
	here, box := t.TempDir(), t.TempDir()
	name := filepath.Join(here, "run.sh")
	must(t, os.WriteFile(name, []byte("#!/bin/sh\n"), 0o600))
	must(t, os.Chmod(name, 0o755))
	cp := func(src, dst string) result { t.Helper(); return i.command("sandbox", "cp", src, dst).run(t) }
	is := func(name, content string, mode fs.FileMode) {
		t.Helper()
		b, err := os.ReadFile(name)
		info, serr := os.Stat(name)
		if err != nil || serr != nil || string(b) != content || info.Mode() != mode {
			t.Errorf("%s = %q, %v, %v; want %q, %v", name, b, info, err, content, mode)
		}
	}
	cp(name, boxID+":"+box).ends(ExitOK)
	is(box+"/run.sh", "#!/bin/sh\n", 0o755)
	cp(name, boxID+":"+box+"/made/other").ends(ExitOK)
	is(box+"/made/other", "#!/bin/sh\n", 0o755)
	must(t, os.Symlink("other", box+"/made/link"))
	must(t, os.WriteFile(name, []byte("new"), 0o755))
	cp(name, boxID+":"+box+"/made/link").ends(ExitOK)
	is(box+"/made/other", "new", 0o755) // through the link, as a shell does
	cp(boxID+":"+box+"/made/link", here+"/out").ends(ExitOK)
	is(here+"/out", "new", 0o755)
	cp(boxID+":"+box+"/run.sh", here+"/out").ends(ExitOK)
	is(here+"/out", "#!/bin/sh\n", 0o755)

	c := i.command("sandbox", "cp", "-", boxID+":"+box+"/from stdin")
	c.env.Stdin = strings.NewReader("typed\x00")
	c.run(t).ends(ExitOK)
	is(box+"/from stdin", "typed\x00", 0o644)
	if r := cp(boxID+":"+box+"/from stdin", "-").ends(ExitOK); r.stdout != "typed\x00" || r.stderr != "" {
		t.Errorf("to standard output = %q and %q", r.stdout, r.stderr)
	}
	if r := cp(boxID+":/proc/version", "-").ends(ExitOK); !strings.HasPrefix(r.stdout, "Linux") {
		t.Errorf("a file without a size = %q", r.stdout)
	}
	i.command("sandbox", "cp", "--user", "nobody", name, boxID+":"+box+"/x").run(t).ends(ExitRefused, "permission")
	noLeftovers(t, here, box)
}

func TestCopyRefusals(t *testing.T) {
	t.Parallel()
	i := newInside(t, nil)
	here, box := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(here+"/file", nil, 0o600))
	must(t, os.WriteFile(box+"/file", nil, 0o600))
	must(t, os.Mkdir(here+"/dir", 0o700))
	must(t, os.Mkdir(box+"/dir", 0o700))
	must(t, os.Mkdir(box+"/dir/file", 0o700))
	must(t, os.Mkdir(here+"/dir/file", 0o700))
	must(t, syscall.Mkfifo(here+"/fifo", 0o600))
	must(t, syscall.Mkfifo(box+"/fifo", 0o600))
	for _, tt := range []struct {
		src, dst string
		code     int
		want     string
	}{
		{here + "/file", here + "/x", ExitUsage, "SANDBOX:PATH"},
		{boxID + ":/x", boxID + ":/y", ExitUsage, "both sides"},
		{"", boxID + ":/x", ExitUsage, "empty"},
		{here + "/none", boxID + ":" + box, ExitRefused, "no such file"},
		{here + "/file", boxID + ":" + box + "/dir", ExitRefused, "is a folder"},
		{here + "/dir", boxID + ":" + box + "/file", ExitRefused, "no folder"},
		{here + "/fifo", boxID + ":" + box, ExitRefused, "no file and no folder"},
		{here + "/file", boxID + ":" + box + "/file/below", ExitRefused, "not a directory"},
		{"-", boxID + ":" + box + "/dir", ExitRefused, "is a folder"},
		{"-", boxID + ":" + box + "/none/", ExitUsage, "name the file"},
		{boxID + ":" + box + "/none", here, ExitRefused, "not found"},
		{boxID + ":" + box + "/dir", "-", ExitUsage, "is a folder"},
		{boxID + ":" + box + "/fifo", here, ExitRefused, "no file and no folder"},
		{boxID + ":" + box + "/file", here + "/dir", ExitRefused, "is a folder"},
		{boxID + ":" + box + "/file", here + "/none/x", ExitRefused, "no such file"},
		{boxID + ":" + box + "/file", here + "/none/", ExitRefused, "no such file"},
		{boxID + ":" + box + "/dir", here + "/file", ExitRefused, "no folder"},
		{"sb09:/x", here, ExitRefused, "[sandbox_not_found]"},
	} {
		r := i.command("sandbox", "cp", tt.src, tt.dst).run(t).ends(tt.code)
		if !strings.Contains(strings.ToLower(r.stderr), strings.ToLower(tt.want)) || r.stdout != "" {
			t.Errorf("cp %q %q says %q, want %q in it", tt.src, tt.dst, r.stderr, tt.want)
		}
	}
	noLeftovers(t, here, box)
	i.command("sandbox", "cp", "x").run(t).ends(ExitUsage, "SRC DST")
}

// What cannot be copied is named and counts as a failure; the rest is there.
func TestCopyLeavesOut(t *testing.T) {
	t.Parallel()
	i := newInside(t, nil)
	box, here := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(box+"/src/dir", 0o755))
	must(t, os.WriteFile(box+"/src/file", []byte("x"), 0o644))
	must(t, syscall.Mkfifo(box+"/src/fifo", 0o600))
	for link, target := range map[string]string{
		"absolute": "/etc/passwd", "up": "../out", "dir/up": "../../out", "through": "dir/../../out", "good": "file", "dir/good": "../file",
	} {
		must(t, os.Symlink(target, box+"/src/"+link))
	}
	r := i.command("sandbox", "cp", boxID+":"+box+"/src", here).run(t).ends(ExitRefused, "[left_out]", "left out fifo", "left out absolute: it leads out, to /etc/passwd")
	if n := strings.Count(r.stderr, "lehr: left out "); n != 5 {
		t.Errorf("%d entries were left out, want 5: %s", n, r.stderr)
	}
	for link, want := range map[string]string{"good": "file", "dir/good": "../file", "absolute": "", "up": "", "dir/up": "", "through": ""} {
		if got, _ := os.Readlink(here + "/src/" + link); got != want {
			t.Errorf("link %s = %q, want %q", link, got, want)
		}
	}
	i.command("sandbox", "cp", "--all-links", boxID+":"+box+"/src", here+"/all").run(t).ends(ExitRefused, "fifo")
	if got, _ := os.Readlink(here + "/all/absolute"); got != "/etc/passwd" {
		t.Errorf("with --all-links = %q, want /etc/passwd", got)
	}
	// Onto a link that leads out: the copy replaces it and follows nothing.
	outside := t.TempDir()
	must(t, os.WriteFile(outside+"/file", []byte("mine"), 0o600))
	must(t, os.MkdirAll(here+"/again/src", 0o755))
	must(t, os.Symlink(outside+"/file", here+"/again/src/file"))
	must(t, os.Symlink(outside, here+"/again/src/dir"))
	i.command("sandbox", "cp", boxID+":"+box+"/src", here+"/again").run(t).ends(ExitRefused, "dir is there and is no folder")
	must(t, os.Remove(here+"/again/src/dir"))
	i.command("sandbox", "cp", boxID+":"+box+"/src", here+"/again").run(t).ends(ExitRefused, "[left_out]")
	if b, err := os.ReadFile(outside + "/file"); string(b) != "mine" {
		t.Errorf("the file behind the link = %q, %v, want it untouched", b, err)
	}
	if b, err := os.ReadFile(here + "/again/src/file"); string(b) != "x" {
		t.Errorf("the copied file = %q, %v", b, err)
	}
	noLeftovers(t, here)
}

// A copy that breaks or is interrupted leaves nothing that looks like a copy.
func TestBrokenCopyLeavesNothing(t *testing.T) {
	t.Parallel()
	i := newInside(t, nil)
	here, box := t.TempDir(), t.TempDir()
	c := i.command("sandbox", "cp", "-", boxID+":"+box+"/file")
	c.env.Stdin = failingReader{errors.New("the disk is gone")}
	c.run(t).ends(ExitPlatform, "the disk is gone")

	// Interrupted in the middle: the input never ends.
	c = i.command("sandbox", "cp", "-", boxID+":"+box+"/file")
	endless := newEndless()
	c.env.Stdin = endless
	interrupts := make(chan os.Signal)
	c.env.Signals = interrupts
	wait := c.follow(t, t.Context())
	endless.await(4 << 20)
	interrupts <- os.Interrupt
	wait().ends(ExitCancelled)
	endless.close()

	// A file that cannot be read, in the middle of a tree.
	must(t, os.MkdirAll(box+"/src/a", 0o755))
	must(t, os.WriteFile(box+"/src/b", []byte("x"), 0o600))
	i.command("sandbox", "cp", "--user", "nobody", boxID+":"+box+"/src", here).run(t).ends(ExitRefused)
	for _, dir := range []string{here, box} {
		list, err := os.ReadDir(dir)
		if err != nil || len(list) > 1 || len(list) == 1 && list[0].Name() != "src" {
			t.Errorf("%s has %v, %v, want nothing of a broken copy", dir, list, err)
		}
	}
	if _, err := os.Stat(here + "/src"); err == nil {
		t.Error("the broken copy has the name of a whole one")
	}
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

// endless delivers zeros, and tells how many, until it is closed.
type endless struct {
	read  chan int
	ended chan struct{}
}

func newEndless() *endless { return &endless{read: make(chan int), ended: make(chan struct{})} }

func (e *endless) Read(b []byte) (int, error) {
	select {
	case e.read <- len(b):
		return len(b), nil
	case <-e.ended:
		return 0, errors.New("closed")
	}
}

func (e *endless) await(bytes int) {
	for bytes > 0 {
		bytes -= <-e.read
	}
	go func() {
		for {
			select {
			case <-e.read:
			case <-e.ended:
				return
			}
		}
	}()
}

func (e *endless) close() { close(e.ended) }

// hostile is a guest daemon that lies: it lists what entries says in every
// folder and serves content for every file.
type hostile struct {
	filesystemconnect.UnimplementedFilesystemHandler
	entries func(path string) []*filesystem.EntryInfo
	content http.HandlerFunc
}

func (h *hostile) Stat(_ context.Context, r *connect.Request[filesystem.StatRequest]) (*connect.Response[filesystem.StatResponse], error) {
	return connect.NewResponse(&filesystem.StatResponse{Entry: &filesystem.EntryInfo{
		Name: "x", Path: r.Msg.GetPath(), Type: filesystem.FileType_FILE_TYPE_DIRECTORY, Mode: 0o755,
	}}), nil
}

func (h *hostile) ListDir(_ context.Context, r *connect.Request[filesystem.ListDirRequest]) (*connect.Response[filesystem.ListDirResponse], error) {
	return connect.NewResponse(&filesystem.ListDirResponse{Entries: h.entries(r.Msg.GetPath())}), nil
}

func (h *hostile) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(filesystemconnect.NewFilesystemHandler(h))
	mux.Handle(processconnect.NewProcessHandler(processconnect.UnimplementedProcessHandler{}))
	mux.HandleFunc("/files", func(w http.ResponseWriter, r *http.Request) {
		if h.content != nil {
			h.content(w, r)
			return
		}
		_, _ = w.Write([]byte("evil"))
	})
	return mux
}

func entry(name string, kind filesystem.FileType) *filesystem.EntryInfo {
	return &filesystem.EntryInfo{Name: name, Type: kind, Mode: 0o777}
}

// Nothing that a sandbox names is written outside of DST, and what lies makes
// the copy fail as a whole.
func TestHostileSandboxWritesNothingOutside(t *testing.T) {
	t.Parallel()
	const file, dir = filesystem.FileType_FILE_TYPE_FILE, filesystem.FileType_FILE_TYPE_DIRECTORY
	always := func(list ...*filesystem.EntryInfo) func(string) []*filesystem.EntryInfo {
		return func(p string) []*filesystem.EntryInfo {
			if p != "/src" {
				return nil
			}
			return list
		}
	}
	for name, tt := range map[string]struct {
		h    hostile
		code int
		want string
	}{
		"parent":        {hostile{entries: always(entry("..", file))}, ExitRefused, "[name_invalid]"},
		"traversal":     {hostile{entries: always(entry("../../evil", file))}, ExitRefused, "[name_invalid]"},
		"absolute":      {hostile{entries: always(entry("/tmp/evil", file))}, ExitRefused, "[name_invalid]"},
		"below":         {hostile{entries: always(entry("a/b", dir))}, ExitRefused, "[name_invalid]"},
		"empty name":    {hostile{entries: always(entry("", file))}, ExitRefused, "[name_invalid]"},
		"dot":           {hostile{entries: always(entry(".", dir))}, ExitRefused, "[name_invalid]"},
		"nul":           {hostile{entries: always(entry("a\x00b", file))}, ExitRefused, "[name_invalid]"},
		"long":          {hostile{entries: always(entry(strings.Repeat("x", 256), file))}, ExitRefused, "[name_invalid]"},
		"twice":         {hostile{entries: always(entry("a", file), entry("a", dir))}, ExitRefused, "[name_twice]"},
		"escapes":       {hostile{entries: always(entry("\x1b]0;evil\x07", filesystem.FileType_FILE_TYPE_UNSPECIFIED))}, ExitRefused, "[left_out]"},
		"endless depth": {hostile{entries: func(string) []*filesystem.EntryInfo { return []*filesystem.EntryInfo{entry("d", dir)} }}, ExitRefused, "[tree_too_large]"},
		"cut content":   {hostile{entries: always(entry("a", file)), content: cutContent}, ExitPlatform, ""},
		"refused":       {hostile{entries: always(entry("a", file)), content: http.NotFound}, ExitRefused, ""},
		"redirect":      {hostile{entries: always(entry("a", file)), content: http.RedirectHandler("/files", http.StatusFound).ServeHTTP}, ExitPlatform, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newInside(t, tt.h.handler())
			around := t.TempDir()
			dst := filepath.Join(around, "a", "dst")
			must(t, os.MkdirAll(filepath.Dir(dst), 0o755))
			r := i.command("sandbox", "cp", boxID+":/src", dst).run(t).ends(tt.code, tt.want)
			if strings.ContainsAny(r.stderr, "\x1b\x07\x00") {
				t.Errorf("stderr = %q, want no control characters", r.stderr)
			}
			list, err := os.ReadDir(filepath.Dir(dst))
			if whole := tt.want == "[left_out]"; err != nil || len(list) != map[bool]int{true: 1}[whole] {
				t.Errorf("%s has %v, %v, want nothing of a failed copy", filepath.Dir(dst), list, err)
			}
			if list, err := os.ReadDir(around); err != nil || len(list) != 1 {
				t.Errorf("beside the copy there is %v, %v", list, err)
			}
		})
	}
}

func cutContent(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	_, _ = w.Write([]byte("cut"))
	panic(http.ErrAbortHandler)
}

func TestCopyIsBounded(t *testing.T) {
	t.Parallel()
	c := &copying{entries: maxCopied - 1}
	if err := c.count(maxDepth); err != nil {
		t.Errorf("the last entry = %v, want it admitted", err)
	}
	if err := c.count(0); errs.CodeOf(err) != "tree_too_large" {
		t.Errorf("one more = %v, want tree_too_large", err)
	}
}

// On a terminal the copy shows how it goes.
func TestCopyShowsProgress(t *testing.T) {
	t.Parallel()
	i := newInside(t, nil)
	c := i.command("sandbox", "cp", recipeFile(t, "RUN x"), boxID+":"+t.TempDir())
	c.tty(t, 80, 20)
	c.run(t).ends(ExitOK)
	if !c.stderr.await(t.Context(), "copied 1 files, 0.0 MiB") {
		t.Errorf("the terminal shows %q", c.stderr.String())
	}
	c = i.command("sandbox", "cp", "-q", recipeFile(t, "RUN x"), boxID+":"+t.TempDir())
	c.tty(t, 80, 20)
	if c.run(t).ends(ExitOK); c.stderr.String() != "" {
		t.Errorf("with -q the terminal shows %q", c.stderr.String())
	}
}

func TestLeadsOut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rel, target string
		want        bool
	}{
		{"a", "b", false},
		{"a", "./b", false},
		{"a", "b/c", false},
		{"d/a", "../b", false},
		{"d/e/a", "../../b", false},
		{"a", "b//c/.", false},
		{"a", "", true},
		{"a", "/b", true},
		{"a", "..", true},
		{"a", "../b", true},
		{"d/a", "../../b", true},
		{"a", "b/../../c", true},
		{"d/a", "../b/../c", true},
		{"d/a", "..//..", true},
		{"d/a", "./../../x", true},
	} {
		if got := leadsOut(tt.rel, tt.target); got != tt.want {
			t.Errorf("leadsOut(%q, %q) = %v, want %v", tt.rel, tt.target, got, tt.want)
		}
	}
}

func FuzzLeadsOut(f *testing.F) {
	f.Add("d/a", "../b")
	f.Add("a", "b/../..")
	f.Fuzz(func(t *testing.T, rel, target string) {
		if badName(strings.ReplaceAll(rel, "/", "")) != "" || !filepath.IsLocal(rel) || filepath.Clean(rel) != rel || leadsOut(rel, target) {
			return
		}
		if at := filepath.Join(filepath.Dir(rel), target); at != "." && !filepath.IsLocal(at) || strings.HasPrefix(target, "/") {
			t.Errorf("leadsOut(%q, %q) = false, but it leads to %q", rel, target, at)
		}
	})
}

func TestParsePlace(t *testing.T) {
	t.Parallel()
	for arg, want := range map[string]place{
		boxID + ":/x": {boxID, "/x"}, "sb01:x:y": {"sb01", "x:y"}, "sb01:": {"sb01", "."}, "./sb01:x": {"", "./sb01:x"}, "/sb01:x": {"", "/sb01:x"},
		"sb01": {"", "sb01"}, "C:x": {"", "C:x"}, "-": {"", "-"}, "sb-x:y": {"", "sb-x:y"},
	} {
		if got := parsePlace(arg); got != want {
			t.Errorf("parsePlace(%q) = %+v, want %+v", arg, got, want)
		}
	}
}
