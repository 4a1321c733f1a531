package cli

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// A login comes from standard input or a Docker configuration; what cannot work
// is refused before anything is sent.
func TestBuildLogins(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.host.Offer("ghcr.io/me/private:1", agenttest.RegistryBase{Digest: lehr.DigestOf([]byte("m")), Password: "canary"})
	file := recipeFile(t, "ARG V=1\nFROM ghcr.io/me/private:$V\nRUN x")
	dir := t.TempDir()
	auth := base64.StdEncoding.EncodeToString([]byte("me:canary"))
	docker := filepath.Join(dir, "config.json")
	if err := os.WriteFile(docker, []byte(`{"auths":{"https://ghcr.io":{"auth":"`+auth+`"},"helped.example":{}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		stdin, recipe string
		args          []string
		code          int
		stderr        string
	}{
		{"", file, nil, ExitRefused, "registry_denied"},
		{"canary\n", file, []string{"--registry-user", "me", "--registry-password-stdin"}, ExitOK, ""},
		{"canary", file, []string{"--registry-token-stdin"}, ExitRefused, "registry_denied"},
		{"", file, []string{"--docker-config", docker}, ExitOK, ""},
		{"", file, []string{"--docker-config", dir}, ExitOK, ""},
		{"", recipeFile(t, "RUN x"), []string{"--docker-config", docker, "--base", "quay.io/x/y"}, ExitUsage, "no login for quay.io"},
		{"", recipeFile(t, "FROM helped.example/x\nRUN x"), []string{"--docker-config", docker}, ExitRefused, "credential helper"},
		{"", recipeFile(t, "RUN x"), []string{"--docker-config", docker}, ExitUsage, "comes from no registry"},
		{"", recipeFile(t, "RUN x"), []string{"--docker-config", docker, "--base", "dir:."}, ExitUsage, "comes from no registry"},
		{"canary", file, []string{"--registry-user", "me"}, ExitUsage, "go together"},
		{"canary", file, []string{"--registry-password-stdin"}, ExitUsage, "go together"},
		{"canary", file, []string{"--registry-token-stdin", "--docker-config", docker}, ExitUsage, "exclude each other"},
		{"canary", "-", []string{"--registry-token-stdin"}, ExitUsage, "standard input cannot be"},
		{"", file, []string{"--registry-token-stdin"}, ExitUsage, "holds no login"},
		{strings.Repeat("canary", maxLogin), file, []string{"--registry-token-stdin"}, ExitUsage, "too long"},
	} {
		c := w.command(append([]string{"build", "-t", "web", "--skip-pre-post", "-f", tt.recipe}, tt.args...)...)
		c.env.Stdin = strings.NewReader(tt.stdin)
		if r := c.run(t).ends(tt.code, tt.stderr); strings.Contains(r.stdout+r.stderr, "canary") {
			t.Errorf("lehr %s prints the login:\n%s%s", r.args, r.stdout, r.stderr)
		}
	}
}
