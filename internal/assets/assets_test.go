package assets

import (
	"os"
	"testing"

	"github.com/lehr-dev/lehr/internal/errs"
)

func TestExtractIsVerifiedAndRepaired(t *testing.T) {
	const name = "README" // the placeholder is always embedded
	dir := t.TempDir()
	path, d, err := Extract(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("bin/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("tampered"), 0o755); err != nil {
		t.Fatal(err)
	}
	again, d2, err := Extract(dir, name)
	got, rerr := os.ReadFile(path)
	if err != nil || rerr != nil || again != path || d2 != d || string(got) != string(want) {
		t.Errorf("Extract over a changed file = %s, %s, %v with content %q, want it repaired", again, d2, err, got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("mode = %v, %v, want 0755", info.Mode(), err)
	}
}

func TestMissingProgramSaysHowToBuild(t *testing.T) {
	if _, _, err := Extract(t.TempDir(), "nosuch"); errs.CodeOf(err) != "asset_missing" {
		t.Errorf("Extract(nosuch) = %v, want asset_missing", err)
	}
}
