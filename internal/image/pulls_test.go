package image

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lehr-dev/lehr/internal/lehr"
)

func TestPullsAreRemembered(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	made := importItems(t, s, lower()...)
	made.Config, made.Source = lehr.ImageConfig{User: "1000", Env: []lehr.EnvVar{{Name: "A", Value: "\n"}}}, "oci x"
	for _, key := range []string{"host/a@sha256:1", "host/b@sha256:1", "../../etc/passwd"} {
		if _, ok := s.Recorded(key); ok {
			t.Errorf("Recorded(%s) before Record() = true", key)
		}
		if err := s.Record(key, made); err != nil {
			t.Fatalf("Record(%s) = %v", key, err)
		}
	}
	again, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	got, ok := again.Recorded("host/a@sha256:1")
	if diff := cmp.Diff(made, got); !ok || diff != "" {
		t.Errorf("Recorded() = %v (-want +got):\n%s", ok, diff)
	}
	if all, err := again.Pulled(); err != nil || len(all) != 1 || !all[made.Digest] {
		t.Errorf("Pulled() = %v, %v, want the image", all, err)
	}
	if err := os.WriteFile(again.pullFile("host/b@sha256:1"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := again.Recorded("host/b@sha256:1"); ok {
		t.Error("Recorded(damaged) = true")
	}
	if err := again.Remove(made.Digest); err != nil {
		t.Fatal(err)
	}
	if _, ok := again.Recorded("host/a@sha256:1"); ok {
		t.Error("Recorded() after the image was removed = true")
	}
	for _, folder := range []string{pullsDir, tempDir} {
		if left, err := os.ReadDir(filepath.Join(dir, folder)); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", folder, left, err)
		}
	}
}

func TestUseIsSeen(t *testing.T) {
	t.Parallel()
	s := open(t)
	made := importItems(t, s, lower()...)
	path, _ := s.file(made.Digest)
	long := time.Now().Add(-100 * time.Hour).Truncate(time.Second)
	if err := os.Chtimes(path, long, long); err != nil {
		t.Fatal(err)
	}
	if all, err := s.List(); err != nil || !all[0].Used.Equal(long) || !all[0].Made.Equal(long) {
		t.Fatalf("List() = %+v, %v, want both times %v", all, err, long)
	}
	if _, err := s.Path(t.Context(), made.Digest); err != nil {
		t.Fatal(err)
	}
	if all, err := s.List(); err != nil || !all[0].Used.After(long) || !all[0].Made.Equal(long) {
		t.Errorf("List() after Path() = %+v, %v, want a later use and the same making", all, err)
	}
}
