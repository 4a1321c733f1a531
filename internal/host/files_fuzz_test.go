package host

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// FuzzManifest reads any file as the manifest of a snapshot, by its right name
// and by a wrong one.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"format":1,"guest":"v","info":{},"files":[{"name":"a","size":3,"digest":"sha256:00"}]}`))
	f.Add([]byte(`{"format":99}`))
	f.Add([]byte(`{"format":1,"files":[{"name":"../../etc/passwd","size":-1}]}`))
	f.Add([]byte("[[[[[["))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(dir, "manifest.json")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readManifest(path, lehr.DigestOf(append(b, 'x'))); errs.KindOf(err) != errs.Corrupt {
			t.Errorf("a manifest of another digest = %v, want corrupt", err)
		}
		m, err := readManifest(path, lehr.DigestOf(b))
		if err != nil {
			if k := errs.KindOf(err); k != errs.Corrupt && k != errs.Unsupported {
				t.Errorf("readManifest = %v of kind %s, want corrupt or unsupported", err, k)
			}
			return
		}
		// Whatever it says of its files, an empty folder does not match.
		if err := m.verify(t.Context(), t.TempDir()); err == nil && len(m.Files) > 0 {
			t.Errorf("a manifest of %d files fits an empty folder", len(m.Files))
		}
	})
}

// FuzzRecord reads any file as the record of a sandbox.
func FuzzRecord(f *testing.F) {
	id := lehr.NewSandboxID()
	f.Add([]byte(`{"id":"`+string(id)+`","state":"running","created_at":"2026-01-01T00:00:00Z"}`), string(id))
	f.Add([]byte(`{"id":"../x"}`), "../x")
	f.Add([]byte(`{"created_at":"x"}`), string(id))
	f.Add([]byte("null"), string(id))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		name = filepath.Base(name)
		path := filepath.Join(dir, name+recordSuffix)
		if os.WriteFile(path, b, 0o600) != nil {
			return // no name of a file
		}
		defer os.Remove(path)
		r, err := readRecord(path)
		if err != nil {
			return
		}
		if _, err := lehr.ParseSandboxID(string(r.ID)); err != nil || string(r.ID) != name {
			t.Errorf("the record of %q names %q", name, r.ID)
		}
		_ = r.view()
	})
}
