// Package compat holds tests with the unmodified clients of others.
package compat

import (
	"context"
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/guest/wire"
	"github.com/lehr-dev/lehr/test/world"
)

func TestMain(m *testing.M) { world.Main(m) }

// sdkVersion is the release of the npm package e2b that is tested.
const sdkVersion = "2.51.0"

//go:embed guest.mjs
var guestScript []byte

// installSDK returns a folder in which scripts find the SDK.
func installSDK(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("SKIP-ENV: " + err.Error())
		}
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", dir, "e2b@"+sdkVersion)
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		t.Skipf("SKIP-ENV: the npm package e2b %s cannot be installed: %v\n%s", sdkVersion, err, out)
	}
	return dir
}

// The unmodified JavaScript SDK of E2B runs commands and terminals, moves files
// and watches folders in a sandbox of ours.
func TestJavaScriptSDK(t *testing.T) {
	t.Parallel()
	dir := installSDK(t)
	w := world.Start(t)
	var b struct {
		ID    string `json:"id"`
		Token string `json:"access_token"`
	}
	w.JSON(&b, "sandbox", "create", "minimal")
	script := filepath.Join(dir, "guest.mjs")
	if err := os.WriteFile(script, guestScript, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	node := exec.CommandContext(ctx, "node", script)
	node.Env = append(os.Environ(), "LEHR_TEST_SANDBOX="+b.ID, "LEHR_TEST_TOKEN="+b.Token, "LEHR_TEST_URL="+w.URL(), "LEHR_TEST_ENVD="+wire.EnvdVersion)
	out, err := node.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("node: %v", err)
	}
}
