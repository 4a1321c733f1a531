package guestd_test

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/guestclient"
	"github.com/lehr-dev/lehr/internal/guest/wire"
	"github.com/lehr-dev/lehr/internal/lehr"
)

type guestStream = lehr.LogStream

const nobody = 65534

func mkfifo(path string) error { return unix.Mkfifo(path, 0o600) }

func rewrite(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), 0o600))
}

// open returns a directory everybody may enter and write.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "guest-files-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o777))
	return dir
}

func TestFilesRoundTrip(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	path := filepath.Join(openDir(t), "a/b/c")
	content := make([]byte, 5<<20)
	_, err := rand.Read(content)
	must(t, err)
	must(t, d.client.WriteFile(t.Context(), guestclient.File{Path: path, User: "nobody"}, bytes.NewReader(content)))
	var got bytes.Buffer
	must(t, d.client.ReadFile(t.Context(), guestclient.File{Path: path}, &got))
	if !bytes.Equal(got.Bytes(), content) {
		t.Errorf("ReadFile: %d bytes differ from the %d written", got.Len(), len(content))
	}
	for _, p := range []string{path, filepath.Dir(path)} {
		info, err := os.Stat(p)
		must(t, err)
		if sys := info.Sys().(*syscall.Stat_t); sys.Uid != nobody {
			t.Errorf("%s belongs to %d, want the user %d", p, sys.Uid, nobody)
		}
	}
	info, err := d.client.Stat(t.Context(), guestclient.File{Path: path})
	must(t, err)
	if info.Size != int64(len(content)) || info.Owner != "nobody" || info.Mode != 0o644 || info.IsDir {
		t.Errorf("Stat = %+v, want nobody's file of %d bytes", info, len(content))
	}
	must(t, d.client.WriteFile(t.Context(), guestclient.File{Path: path, User: "nobody"}, strings.NewReader("short")))
	must(t, d.client.MakeDir(t.Context(), guestclient.File{Path: filepath.Dir(path)}))
	after, err := os.ReadFile(path)
	if err != nil || string(after) != "short" {
		t.Errorf("after a second write: %q, %v; want short", after, err)
	}
}

// What the kernel shows of the daemon is nobody's, root's neither, however it
// is called.
func TestFilesOfTheDaemonItself(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	link := filepath.Join(openDir(t), "link")
	must(t, os.Symlink("/proc/self/environ", link))
	for _, path := range []string{
		"/proc/self/mem", "/proc/self/environ", "/proc/thread-self/mem", "/proc/thread-self/maps", link,
		"/proc/" + strconv.Itoa(os.Getpid()) + "/environ", "/proc/self/task/" + strconv.Itoa(os.Getpid()) + "/environ",
	} {
		err := d.client.ReadFile(t.Context(), guestclient.File{Path: path, User: "root"}, io.Discard)
		if !errs.IsKind(err, errs.PermissionDenied) {
			t.Errorf("ReadFile(%s) = %v, want permission denied", path, err)
		}
	}
}

// What a user may not do by itself, the daemon does not do for it, whatever
// links stand in the way.
func TestFilesRights(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	dir := openDir(t)
	private := filepath.Join(dir, "private")
	must(t, os.WriteFile(private, []byte("root's"), 0o600))
	locked := filepath.Join(dir, "locked")
	must(t, os.Mkdir(locked, 0o700))
	link := filepath.Join(dir, "link")
	must(t, os.Symlink(private, link))
	dirLink := filepath.Join(dir, "dirlink")
	must(t, os.Symlink(locked, dirLink))
	fifo := filepath.Join(dir, "fifo")
	must(t, mkfifo(fifo))
	must(t, os.Chmod(fifo, 0o666))
	as := func(path string) guestclient.File { return guestclient.File{Path: path, User: "nobody"} }
	read := func(path string) error { return d.client.ReadFile(t.Context(), as(path), io.Discard) }
	write := func(path string) error { return d.client.WriteFile(t.Context(), as(path), strings.NewReader("x")) }
	stat := func(path string) error { _, err := d.client.Stat(t.Context(), as(path)); return err }
	tests := []struct {
		name string
		do   func(string) error
		path string
		want errs.Kind
	}{
		{"read", read, private, errs.PermissionDenied},
		{"read by a link", read, link, errs.PermissionDenied},
		{"read by dots", read, dir + "/x/../private", errs.PermissionDenied},
		{"write", write, private, errs.PermissionDenied},
		{"write by a link", write, link, errs.PermissionDenied},
		{"write below", write, locked + "/new", errs.PermissionDenied},
		{"write below a link", write, dirLink + "/a/new", errs.PermissionDenied},
		{"write over a directory", write, dir, errs.Invalid},
		{"write below a file", write, private + "/x", errs.Invalid},
		{"read a directory", read, dir, errs.Invalid},
		{"read a device", read, "/dev/zero", errs.Invalid},
		{"read a FIFO", read, fifo, errs.Invalid},
		{"write a FIFO", write, fifo, errs.Invalid},
		{"write a device", write, "/dev/null", errs.Invalid},
		{"read nothing", read, dir + "/absent", errs.NotFound},
		{"stat nothing", stat, dir + "/absent", errs.NotFound},
		{"stat below", stat, locked + "/x", errs.PermissionDenied},
		{"NUL", stat, "/a\x00b", errs.Invalid},
		{"long name", write, dir + "/" + strings.Repeat("x", 300), errs.Invalid},
		{"full disk", write, "/dev/full", errs.Invalid},
	}
	for _, tt := range tests {
		if err := tt.do(tt.path); !errs.IsKind(err, tt.want) {
			t.Errorf("%s: %v (%s), want %s", tt.name, err, errs.KindOf(err), tt.want)
		}
	}
	if content, err := os.ReadFile(private); err != nil || string(content) != "root's" {
		t.Errorf("the private file is %q, %v; want it untouched", content, err)
	}
	err := d.client.ReadFile(t.Context(), guestclient.File{Path: private, User: "no-such"}, io.Discard)
	if !errors.Is(err, &errs.Error{Kind: errs.Invalid, Code: wire.CodeUserUnknown}) {
		t.Errorf("ReadFile as an unknown user = %v, want %s", err, wire.CodeUserUnknown)
	}
}

func TestFilesFullDisk(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("SKIP-ENV: no tmpfs here: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	err := d.client.WriteFile(t.Context(), guestclient.File{Path: dir + "/big"}, bytes.NewReader(make([]byte, 4<<20)))
	if !errors.Is(err, &errs.Error{Kind: errs.Exhausted, Code: wire.CodeDiskFull}) {
		t.Errorf("WriteFile on a full disk = %v (%s), want %s", err, errs.CodeOf(err), wire.CodeDiskFull)
	}
	resp, _ := d.call(t, "POST", "/files?path="+dir+"/big", asJSON(wire.HeaderToken, "token"), strings.Repeat("x", 200_000))
	if resp.StatusCode != http.StatusInsufficientStorage {
		t.Errorf("POST /files on a full disk = %d, want 507", resp.StatusCode)
	}
}

func TestWriteFileReaderFails(t *testing.T) {
	t.Parallel()
	// Removed after the daemon has ended, which may still be writing.
	dir := openDir(t)
	d := initialised(t)
	broken := errors.New("the source broke")
	r := io.MultiReader(strings.NewReader("some"), iotestErr{broken})
	err := d.client.WriteFile(t.Context(), guestclient.File{Path: filepath.Join(dir, "f")}, r)
	if !errors.Is(err, broken) {
		t.Errorf("WriteFile = %v, want %v", err, broken)
	}
}

type iotestErr struct{ err error }

func (r iotestErr) Read([]byte) (int, error) { return 0, r.err }

// The forms of upload and download the SDKs use.
func TestFilesHTTP(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	dir := openDir(t)
	auth := func(extra ...string) map[string]string {
		h := map[string]string{wire.HeaderToken: "token", "Content-Type": "application/octet-stream"}
		for i := 0; i+1 < len(extra); i += 2 {
			h[extra[i]] = extra[i+1]
		}
		return h
	}
	expect := func(what string, resp *http.Response, text string, status int, want string) {
		t.Helper()
		if resp.StatusCode != status || !strings.Contains(text, want) {
			t.Errorf("%s = %d %s, want %d %s", what, resp.StatusCode, text, status, want)
		}
	}
	at := func(name string) string {
		return "/files?username=root&path=" + url.QueryEscape(filepath.Join(dir, name))
	}

	resp, text := d.call(t, "POST", at("plain"), auth(), "0123456789")
	expect("plain upload", resp, text, 200, `[{"path":"`+dir+`/plain","name":"plain","type":"file"}]`)
	resp, text = d.call(t, "GET", at("plain"), auth("Range", "bytes=2-4"), "")
	expect("range", resp, text, 206, "234")
	resp, text = d.call(t, "GET", at("plain"), auth("Range", "bytes=20-"), "")
	expect("range beyond", resp, text, 416, "")
	resp, text = d.call(t, "GET", at("plain"), auth("Accept-Encoding", "gzip"), "")
	expect("packed", resp, unpack(t, resp, text), 200, "0123456789")
	resp, text = d.call(t, "GET", at("plain"), auth("Accept-Encoding", "gzip", "Range", "bytes=2-4"), "")
	expect("a packed range", resp, text, 206, "234")
	resp, text = d.call(t, "GET", at("plain"), auth("Accept-Encoding", "identity;q=0, gzip", "Range", "bytes=2-4"), "")
	expect("a range that must be packed", resp, unpack(t, resp, text), 200, "0123456789")
	resp, text = d.call(t, "GET", at("plain"), auth("Accept-Encoding", "identity;q=0, br"), "")
	expect("no encoding", resp, text, 406, "encoding")
	resp, text = d.call(t, "GET", "/files?path=/proc/meminfo", auth(), "")
	expect("a file without a size", resp, text, 200, "MemTotal")
	resp, text = d.call(t, "GET", "/files?path=x&username=ghost", auth(), "")
	expect("unknown user", resp, text, 401, "invalid username: 'ghost'")

	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write([]byte("unpacked"))
	must(t, errors.Join(err, w.Close()))
	resp, text = d.call(t, "POST", at("gz"), auth("Content-Encoding", "gzip"), packed.String())
	expect("gzip upload", resp, text, 200, "gz")
	resp, text = d.call(t, "GET", at("gz"), auth(), "")
	expect("gzip upload's content", resp, text, 200, "unpacked")
	resp, text = d.call(t, "POST", at("gz"), auth("Content-Encoding", "br"), "x")
	expect("unknown encoding", resp, text, 400, "encoding")

	var form bytes.Buffer
	parts := multipart.NewWriter(&form)
	for _, name := range []string{"x/one", "x/two"} {
		part, err := parts.CreateFormFile("file", filepath.Join(dir, name))
		must(t, err)
		_, err = part.Write([]byte(name))
		must(t, err)
	}
	must(t, parts.Close())
	resp, text = d.call(t, "POST", "/files", auth("Content-Type", parts.FormDataContentType()), form.String())
	expect("multipart upload", resp, text, 200, dir+`/x/two","name":"two"`)
	resp, text = d.call(t, "GET", at("x/one"), auth(), "")
	expect("multipart upload's content", resp, text, 200, "x/one")
	resp, text = d.call(t, "POST", at("z"), auth("Content-Type", parts.FormDataContentType()), form.String())
	expect("two parts for one path", resp, text, 400, "more than one")
	resp, text = d.call(t, "POST", at("z"), auth("Content-Type", parts.FormDataContentType()), form.String()[:80])
	expect("half a form", resp, text, 400, "body")
	resp, text = d.call(t, "POST", "/files", auth("Content-Type", "multipart/form-data"), "x")
	expect("no boundary", resp, text, 400, "boundary")
	resp, text = d.call(t, "POST", at("gz"), auth("Content-Encoding", "gzip"), packed.String()[:packed.Len()-3])
	expect("half a packed body", resp, text, 400, "body")
	resp, text = d.call(t, "POST", "/files", auth(), "x")
	expect("no path", resp, text, 400, "path")
}

func unpack(t *testing.T, resp *http.Response, text string) string {
	t.Helper()
	if got := resp.Header.Get("Content-Encoding"); got != "gzip" {
		t.Fatalf("Content-Encoding = %q, want gzip", got)
	}
	r, err := gzip.NewReader(strings.NewReader(text))
	must(t, err)
	plain, err := io.ReadAll(r)
	must(t, err)
	return string(plain)
}
