package program

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The test starts itself twice: the first child is given a descriptor and calls
// KeepDescriptors, the second one must not find it.
func TestKeepDescriptors(t *testing.T) {
	switch os.Getenv("LEHR_TEST_CHILD") {
	case "first":
		if err := KeepDescriptors(); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString(child(t, "second", nil))
		os.Exit(0)
	case "second":
		fmt.Print(inherited(os.Getenv("LEHR_TEST_FILE")))
		os.Exit(0)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "given"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	t.Setenv("LEHR_TEST_FILE", f.Name())
	if got := child(t, "second", f); got != "inherited" {
		t.Fatalf("without KeepDescriptors a child says %q, want it to inherit: the check is blind", got)
	}
	if got := child(t, "first", f); got != "clean" {
		t.Errorf("a grandchild says %q, want clean", got)
	}
}

// inherited looks for a file among the descriptors of this process.
func inherited(name string) string {
	paths, _ := filepath.Glob("/proc/self/fd/*") // the pattern is well-formed
	for _, p := range paths {
		if target, err := os.Readlink(p); err == nil && target == name {
			return "inherited"
		}
	}
	return "clean"
}

func child(t *testing.T, role string, extra *os.File) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestKeepDescriptors$")
	cmd.Env = append(os.Environ(), "LEHR_TEST_CHILD="+role)
	if extra != nil {
		cmd.ExtraFiles = []*os.File{extra}
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("child %s: %v", role, err)
	}
	return string(out)
}
