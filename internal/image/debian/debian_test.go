package debian

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image"
)

const bookwormOS = "ID=debian\nVERSION_CODENAME=bookworm\n"

// machine writes an apt configuration and an os-release.
func machine(t *testing.T, osRelease string, files map[string]string) (aptDir, release string) {
	t.Helper()
	dir := t.TempDir()
	aptDir, release = filepath.Join(dir, "apt"), filepath.Join(dir, "os-release")
	if err := os.MkdirAll(filepath.Join(aptDir, "sources.list.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(release, []byte(osRelease), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(aptDir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return aptDir, release
}

func TestMachineSources(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		os    string
		files map[string]string
		want  []string
	}{
		"one line": {bookwormOS, map[string]string{
			"sources.list": "# comment\ndeb-src http://mirror.example/debian bookworm main\n" +
				"deb http://mirror.example/debian bookworm main contrib # end\n" +
				"deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] https://safe.example/debian-security bookworm-security main\n",
		}, []string{
			"deb http://mirror.example/debian bookworm main contrib", "deb https://safe.example/debian-security bookworm-security main",
		}},
		"deb822": {bookwormOS, map[string]string{
			"sources.list.d/debian.sources": "Types: deb deb-src\n# comment\nURIs: http://mirror.example/debian\nSuites: bookworm\n bookworm-updates\nComponents: main\n" +
				"Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n" +
				"Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\n\n" +
				"Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n",
		}, []string{
			"deb http://mirror.example/debian bookworm main", "deb http://mirror.example/debian bookworm-updates main",
			"deb http://mirror.example/debian-security bookworm-security main",
		}},
		"vendors beside": {bookwormOS, map[string]string{
			"sources.list":                  "deb http://mirror.example/debian bookworm main\n",
			"sources.list.d/a-vendor.list":  "deb [signed-by=/etc/apt/keyrings/vendor.gpg] http://vendor.example/apt bookworm main\n",
			"sources.list.d/b-docker.list":  "deb http://vendor.example/linux bookworm stable\n",
			"sources.list.d/vendor.sources": "Types: deb\nURIs: http://vendor.example/deb\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n key\n",
		}, []string{"deb http://mirror.example/debian bookworm main"}},
		"newer machine": {"ID=debian\nVERSION_CODENAME=\"trixie\"\n", map[string]string{
			"sources.list": "deb http://mirror.example/debian trixie main\ndeb http://mirror.example/debian-security trixie-security main\ndeb cdrom:[disk] trixie main\n",
		}, []string{
			"deb http://mirror.example/debian bookworm main", "deb http://mirror.example/debian-security bookworm-security main",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			aptDir, release := machine(t, tt.os, tt.files)
			sources, err := machineSources(aptDir, release)
			if err != nil {
				t.Fatalf("machineSources() = %v", err)
			}
			var got []string
			for _, s := range sources {
				got = append(got, s.line())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("sources differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMachineSourcesRefuses(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]map[string]string{
		"nothing":    {},
		"no Debian":  {"sources.list": "deb http://archive.example/ubuntu noble main\n"},
		"no network": {"sources.list": "deb file:/srv/debian bookworm main\n"},
		"malformed":  {"sources.list": "deb\ndeb [ http://x\ndeb http://x bookworm\n"},
	} {
		aptDir, release := machine(t, "ID=ubuntu\nVERSION_CODENAME=noble\n", files)
		if _, err := machineSources(aptDir, release); !errs.IsKind(err, errs.Unavailable) {
			t.Errorf("%s: machineSources() = %v, want unavailable", name, err)
		}
	}
}

func FuzzParseSources(f *testing.F) {
	f.Add("deb [signed-by=/k] http://m bookworm main\n")
	f.Add("Types: deb\nURIs: http://m\nSuites: a\n b\nComponents: main\n")
	f.Fuzz(func(t *testing.T, in string) {
		for _, s := range append(parseList([]byte(in)), parseDeb822([]byte(in))...) {
			if line := s.line(); strings.ContainsAny(line, "\n\r") {
				t.Errorf("line %q has several lines", line)
			}
		}
	})
}

func TestArguments(t *testing.T) {
	t.Parallel()
	plain := arguments([]source{{uri: "http://m/debian", suite: "bookworm", components: []string{"main"}}}, []string{`Acquire::http::Proxy "http://p:3142"`})
	got := strings.Join(plain, "\n")
	for _, want := range []string{"--variant=minbase", `--aptopt=Acquire::http::Proxy "http://p:3142"`, "\nbookworm\n-\ndeb http://m/debian bookworm main"} {
		if !strings.Contains(got, want) {
			t.Errorf("arguments() = %s, want %q in it", got, want)
		}
	}
	if strings.Contains(got, "ca-certificates") {
		t.Error("certificates are included for a mirror that needs none")
	}
	if tls := arguments(mirrorSources("https://m/debian"), nil); !strings.Contains(strings.Join(tls, "\n"), "--include=ca-certificates") {
		t.Error("no certificates are included for a mirror with https")
	}
}

// openStore returns a store whose temporary folder must be empty at the end.
func openStore(t *testing.T) *image.Store {
	t.Helper()
	dir := t.TempDir()
	s, err := image.OpenStore(dir)
	if err != nil {
		t.Fatalf("OpenStore() = %v", err)
	}
	t.Cleanup(func() {
		if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		_ = s.Close()
	})
	return s
}

// TestMake makes the real thing from this machine's mirror.
func TestMake(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("SKIP-ENV: takes half a minute and the network")
	}
	if err := Check(); err != nil {
		t.Skipf("SKIP-ENV: %v", err)
	}
	if _, err := machineSources("/etc/apt", "/etc/os-release"); err != nil {
		t.Skipf("SKIP-ENV: %v", err)
	}
	s := openStore(t)
	lines := 0
	made, err := Make(t.Context(), s, Options{SkipRegistry: true, Progress: func(string) { lines++ }})
	if err != nil {
		t.Fatalf("Make() = %v", err)
	}
	if !made.Config.Debian || lines == 0 || !strings.Contains(made.Source, "bookworm") {
		t.Errorf("Make() = %+v after %d lines, want a Debian, its source and progress", made, lines)
	}
	list, err := s.ReadFile(t.Context(), made.Digest, "etc/apt/sources.list", 1<<16)
	if err != nil || !strings.Contains(string(list), "bookworm") {
		t.Errorf("sources.list = %q, %v, want the mirror", list, err)
	}
	name, err := s.ReadFile(t.Context(), made.Digest, "etc/hostname", 100)
	if err != nil || string(name) != "localhost\n" {
		t.Errorf("hostname = %q, %v, want localhost", name, err)
	}
	if policy, err := s.ReadFile(t.Context(), made.Digest, "usr/sbin/policy-rc.d", 100); err != nil || !strings.Contains(string(policy), "101") {
		t.Errorf("policy-rc.d = %q, %v, want it to refuse", policy, err)
	}
	t.Logf("%s, %d bytes", made.Source, made.Size)
}

func TestMakeNamesAFailingMirror(t *testing.T) {
	t.Parallel()
	if err := Check(); err != nil {
		t.Skipf("SKIP-ENV: %v", err)
	}
	_, err := Make(t.Context(), openStore(t), Options{SkipRegistry: true, Mirror: "http://127.0.0.1:1/debian"})
	if !errs.IsKind(err, errs.Unavailable) || !strings.Contains(err.Error(), "mmdebstrap failed") {
		t.Errorf("Make(no mirror) = %v, want unavailable with what was said", err)
	}
}

func TestMakeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	if err := Check(); err != nil {
		t.Skipf("SKIP-ENV: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	_, err := Make(ctx, openStore(t), Options{SkipRegistry: true, Progress: func(string) { cancel(stop) }})
	if !errors.Is(err, stop) {
		t.Errorf("Make(cancelled) = %v, want the cause", err)
	}
}
