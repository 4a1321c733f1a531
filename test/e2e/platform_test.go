// Package e2e tests the lehr program as its users run it: real processes, real
// sandboxes, the command line and the HTTP API.
package e2e

import (
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/test/world"
)

// TestPlatform runs everything that can share one platform; the base minimal
// is made once.
func TestPlatform(t *testing.T) {
	t.Parallel()
	w := world.Start(t)
	t.Run("minimal", func(t *testing.T) { testMinimal(t, w.In(t)) })
	t.Run("base template", func(t *testing.T) { testBaseTemplate(t, w.In(t)) })
	t.Run("snapshot template", func(t *testing.T) { testSnapshotTemplate(t, w.In(t)) })
	t.Run("failures", func(t *testing.T) { testFailures(t, w.In(t)) })
	t.Run("refusals", func(t *testing.T) { testRefusals(t, w.In(t)) })
	t.Run("cancel", func(t *testing.T) { testCancel(t, w.In(t)) })
	t.Run("live log", func(t *testing.T) { testLiveLog(t, w.In(t)) })
	t.Run("detach", func(t *testing.T) { testDetach(t, w.In(t)) })
	t.Run("bases", func(t *testing.T) { testBases(t, w.In(t)) })
	t.Run("commands", func(t *testing.T) { testCommands(t, w.In(t)) })
	t.Run("limits", func(t *testing.T) { testLimits(t, w.In(t)) })
	t.Run("network", func(t *testing.T) { testNetwork(t, w.In(t)) })
	t.Run("time-to-live", func(t *testing.T) { testTTL(t, w.In(t)) })
	t.Run("templates", func(t *testing.T) { testTemplates(t, w.In(t)) })
	t.Run("keys", func(t *testing.T) { testKeys(t, w.In(t)) })
	t.Run("rest", func(t *testing.T) { testREST(t, w.In(t)) })
	t.Run("usage", func(t *testing.T) { testUsage(t, w.In(t)) })
}

// built is what tests read of a build.
type built struct {
	ID         string   `json:"id"`
	Status     string   `json:"status"`
	Attempt    int      `json:"attempt"`
	BaseDigest *string  `json:"base_digest"`
	Recipe     []string `json:"recipe"`
	SandboxID  *string  `json:"sandbox_id"`
	TotalSteps int      `json:"total_steps"`
	Error      *struct {
		Code    string  `json:"code"`
		Message string  `json:"message"`
		Fault   string  `json:"fault"`
		Phase   *string `json:"phase"`
		Step    *int    `json:"step"`
	} `json:"error"`
	Steps    []step `json:"steps"`
	Artifact *struct {
		Type           string  `json:"type"`
		ImageDigest    string  `json:"image_digest"`
		SnapshotDigest *string `json:"snapshot_digest"`
		SizeBytes      int64   `json:"size_bytes"`
		Version        string  `json:"version"`
	} `json:"artifact"`
}

type step struct {
	Step       int    `json:"step"`
	Phase      string `json:"phase"`
	Cmd        string `json:"cmd"`
	Status     string `json:"status"`
	Exit       *int   `json:"exit"`
	OK         bool   `json:"ok"`
	Cached     bool   `json:"cached"`
	StdoutTail string `json:"stdout_tail"`
	StderrTail string `json:"stderr_tail"`
}

type line struct {
	Seq     int64  `json:"seq"`
	Attempt int    `json:"attempt"`
	Phase   string `json:"phase"`
	Step    int    `json:"step"`
	Stream  string `json:"stream"`
	Text    string `json:"text"`
}

type box struct {
	ID        string  `json:"id"`
	Template  string  `json:"template"`
	Version   string  `json:"version"`
	State     string  `json:"state"`
	Reason    *string `json:"reason"`
	VCPUs     int     `json:"vcpus"`
	MemoryMB  int     `json:"memory_mb"`
	DiskMB    int     `json:"disk_mb"`
	ExpiresAt *string `json:"expires_at"`
	URL       *string `json:"url"`
}

// build builds a recipe from standard input and returns the terminal object,
// whatever its status.
func build(t *testing.T, w *world.World, recipe string, args ...string) (built, world.Result) {
	t.Helper()
	r := w.RunInput(recipe, append([]string{"--output", "json", "build", "-f", "-"}, args...)...)
	var b built
	decode(t, r, &b)
	return b, r
}

// mustBuild is build for recipes that must succeed. Without apt the pre- and
// post-build steps would only take time, so they are left out.
func mustBuild(t *testing.T, w *world.World, recipe string, args ...string) built {
	t.Helper()
	b, r := build(t, w, recipe, append(args, "--skip-pre-post")...)
	if b.Status != "success" || r.Code != 0 || b.Artifact == nil {
		t.Fatalf("build = status %q, exit code %d, want success and 0\n%s\n%s", b.Status, r.Code, r.Stderr, w.Log())
	}
	return b
}

// create starts a sandbox that the test's end kills.
func create(t *testing.T, w *world.World, args ...string) box {
	t.Helper()
	var b box
	w.JSON(&b, append([]string{"sandbox", "create"}, args...)...)
	t.Cleanup(func() { w.Run("sandbox", "kill", b.ID) })
	if b.State != "running" {
		t.Fatalf("sandbox create = state %q, want running", b.State)
	}
	return b
}

func get(t *testing.T, w *world.World, id string) box {
	t.Helper()
	var b box
	w.JSON(&b, "sandbox", "get", id)
	return b
}

func wantIn(t *testing.T, what, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s = %q, want %q in it", what, got, want)
	}
}
