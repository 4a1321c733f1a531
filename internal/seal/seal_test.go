package seal

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func load(t *testing.T, path string) *Key {
	t.Helper()
	k, _, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeyIsMadeOnceAndStays(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret.key")
	first, made, err := Load(path)
	if err != nil || !made {
		t.Fatalf("Load() = %v, %v, want a key that was made", made, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v, %v, want 0600", path, info.Mode(), err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	second, made, err := Load(path)
	if err != nil || made {
		t.Fatalf("the second Load() = %v, %v, want the key that is there", made, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v, %v, want it private again", path, info.Mode(), err)
	}
	id := lehr.NewSandboxID()
	if a, b := first.AccessToken(id), second.AccessToken(id); a != b {
		t.Errorf("AccessToken() = %s, then %s, want it the same", a, b)
	}
	if files, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(files) != 1 {
		t.Errorf("the folder holds %v, want the key alone", files)
	}
}

func TestDamagedKeyIsRefused(t *testing.T) {
	t.Parallel()
	whole := filepath.Join(t.TempDir(), "secret.key")
	load(t, whole)
	good, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[20] ^= 1
	for name, content := range map[string][]byte{
		"empty": {}, "cut": good[:len(good)-4], "flipped": flipped, "word": []byte("hello\n"), "binary": bytes.Repeat([]byte{0xff}, 32),
		"huge": bytes.Repeat([]byte("a"), 1<<20), "short": []byte(fileWord + " abcd " + sum([]byte{0xab, 0xcd}) + "\n"),
	} {
		path := filepath.Join(t.TempDir(), "secret.key")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Load(path); errs.CodeOf(err) != "secret_key_damaged" || !errs.IsKind(err, errs.Corrupt) {
			t.Errorf("Load(%s) = %v, want secret_key_damaged", name, err)
		} else if strings.Contains(err.Error(), hex.EncodeToString(good[14:30])) {
			t.Errorf("Load(%s) = %v, want no secret in it", name, err)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, content) {
			t.Errorf("Load(%s) changed the file", name)
		}
	}
	if _, _, err := Load(t.TempDir()); errs.CodeOf(err) != "secret_key_damaged" {
		t.Errorf("Load(a folder) = %v, want secret_key_damaged", err)
	}
	if _, _, err := Load(filepath.Join(t.TempDir(), "missing", "secret.key")); !errs.IsKind(err, errs.Unavailable) {
		t.Errorf("Load(in no folder) = %v, want Unavailable", err)
	}
}

func TestAccessTokens(t *testing.T) {
	t.Parallel()
	k, other := load(t, filepath.Join(t.TempDir(), "k")), load(t, filepath.Join(t.TempDir(), "k"))
	a, b := lehr.NewSandboxID(), lehr.NewSandboxID()
	token := k.AccessToken(a)
	if b, err := hex.DecodeString(token); err != nil || len(b) != 32 {
		t.Errorf("AccessToken() = %q, want 64 hex digits", token)
	}
	if token == k.AccessToken(b) || token == other.AccessToken(a) {
		t.Error("two sandboxes, or two installations, have the same token")
	}
}

func TestSeal(t *testing.T) {
	t.Parallel()
	k, other := load(t, filepath.Join(t.TempDir(), "k")), load(t, filepath.Join(t.TempDir(), "k"))
	const where = "build bld-1 registry login"
	plain := []byte("user:password")
	sealed := k.Seal(where, plain)
	if bytes.Contains(sealed, plain) || bytes.Equal(sealed, k.Seal(where, plain)) {
		t.Errorf("Seal() = %x, want it hidden and never the same twice", sealed)
	}
	if got, err := k.Open(where, sealed); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("Open() = %q, %v, want %q", got, err, plain)
	}
	if got, err := k.Open(where, k.Seal(where, nil)); err != nil || len(got) != 0 {
		t.Errorf("Open() of nothing = %q, %v, want nothing", got, err)
	}
	if _, err := other.Open(where, sealed); errs.CodeOf(err) != "seal_broken" {
		t.Errorf("Open() by another key = %v, want seal_broken", err)
	}
	if _, err := k.Open("build bld-2 registry login", sealed); errs.CodeOf(err) != "seal_broken" {
		t.Errorf("Open() in another context = %v, want seal_broken", err)
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if _, err := k.Open(where, changed); errs.CodeOf(err) != "seal_broken" {
			t.Fatalf("Open() with byte %d changed = %v, want seal_broken", i, err)
		}
		if _, err := k.Open(where, sealed[:i]); errs.CodeOf(err) != "seal_broken" {
			t.Fatalf("Open() of %d bytes = %v, want seal_broken", i, err)
		}
	}
}

func TestKeyDoesNotShowItself(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "k")
	k := load(t, path)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("key", "key", k)
	for _, text := range []string{fmt.Sprint(k), fmt.Sprintf("%+v", k), fmt.Sprintf("%#v", k), log.String()} {
		if !strings.Contains(text, "seal.Key") || strings.Contains(text, hex.EncodeToString(k.tokens)) || strings.Contains(text, fmt.Sprint(k.tokens)) {
			t.Errorf("the key shows itself in %q", text)
		}
	}
}

func FuzzOpen(f *testing.F) {
	k, err := newKey(make([]byte, keyBytes))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("c", k.Seal("d", []byte("x")))
	f.Add("", []byte{})
	f.Fuzz(func(t *testing.T, context string, sealed []byte) {
		if got, err := k.Open(context, sealed); err == nil && context != "d" {
			t.Errorf("Open(%q, %x) = %q, want it refused", context, sealed, got)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(fileWord + " 00 00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if secret, err := parse("k", b); err == nil && len(secret) != keyBytes {
			t.Errorf("parse(%q) = %d bytes, want %d", b, len(secret), keyBytes)
		}
	})
}

func TestDigestsNeedTheKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := load(t, filepath.Join(dir, "a")), load(t, filepath.Join(dir, "b"))
	text := []byte("PASSWORD=1234")
	if again := load(t, filepath.Join(dir, "a")); a.Digest(text) != again.Digest(text) {
		t.Error("Digest() of the same text by the same key differs")
	}
	for name, other := range map[string]lehr.Digest{
		"of another text": a.Digest([]byte("PASSWORD=1235")), "by another key": b.Digest(text), "without a key": lehr.DigestOf(text),
	} {
		if a.Digest(text) == other {
			t.Errorf("Digest() is the one %s", name)
		}
	}
}
