package guestd

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/account"
)

// Whatever a body and its headers say, what is written goes to the one path
// that the query names, and what fails is the request's fault.
func FuzzUpload(f *testing.F) {
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	part, err := w.CreateFormFile("file", "../../etc/passwd")
	if err != nil {
		f.Fatal(err)
	}
	_, _ = part.Write([]byte("content"))
	_ = w.Close()
	f.Add(w.FormDataContentType(), "", form.Bytes())
	f.Add("application/octet-stream", "gzip", []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add("multipart/mixed; boundary=x", "identity", []byte("--x\r\nContent-Disposition: form-data; name=file\r\n\r\n\r\n--x--"))
	f.Fuzz(func(t *testing.T, kind, coding string, body []byte) {
		dir := t.TempDir()
		target := filepath.Join(dir, "target")
		u := uploadRequest{user: account.User{}, target: target, hasTarget: true, seen: map[string]bool{}}
		err := u.receive(http.Header{"Content-Type": {kind}, "Content-Encoding": {coding}}, bytes.NewReader(body))
		if err != nil && !errs.IsKind(err, errs.Invalid) {
			t.Errorf("receive(%q, %q) = %v (%s), want invalid", kind, coding, err, errs.KindOf(err))
		}
		names, readErr := os.ReadDir(dir)
		if readErr != nil || len(names) > 1 || len(names) == 1 && names[0].Name() != "target" {
			t.Errorf("receive(%q, %q) wrote %v, %v", kind, coding, names, readErr)
		}
	})
}

// A file name of a part is a path like any other.
func FuzzPartPath(f *testing.F) {
	f.Add(`form-data; name="file"; filename="a/../../b"`)
	f.Add(`form-data; name=file; filename*=UTF-8''%ff%00`)
	f.Fuzz(func(t *testing.T, disposition string) {
		u := uploadRequest{user: account.User{Home: "/home/al"}}
		path, err := u.partPath(&multipart.Part{Header: map[string][]string{"Content-Disposition": {disposition}}})
		if err == nil && (path != filepath.Clean("/"+path) || strings.ContainsRune(path, 0)) {
			t.Errorf("partPath(%q) = %q, not clean and absolute", disposition, path)
		}
	})
}
