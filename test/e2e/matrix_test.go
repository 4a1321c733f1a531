package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/test/world"
)

// matrix is one platform that is killed again and again, at points that are
// armed while it runs.
type matrix struct {
	t      *testing.T
	w      *world.World
	points failpoint.Folder
	images []string // that are there besides those of versions
	n      int      // of templates made
}

// pooled is how many slots an idle agent keeps.
const pooled = 6

func newMatrix(t *testing.T) *matrix {
	t.Helper()
	m := &matrix{t: t, points: failpoint.NewFolder(t.TempDir())}
	m.w = world.Start(t, world.WithEnv(m.points.Env()))
	m.w.WatchSlots()
	mustBuild(t, m.w, "RUN true", "-t", "tiny", "--base", "tar:"+tinyTar(t))
	m.await("an idle platform", func() error { return m.idle(m.w.Inventory()) })
	for _, d := range m.w.Inventory().Images {
		if !slices.Contains(m.named(), d) {
			m.images = append(m.images, d) // minimal and the guest daemon
		}
	}
	return m
}

// tinyTar is a root file system of busybox alone, so that making images of it
// takes no time.
func tinyTar(t *testing.T) string {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("busybox is missing: tools/need.sh test installs it")
	}
	b, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	put := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err := errors.Join(tw.WriteHeader(&h), func() error { _, err := tw.Write(content); return err }()); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin/", "etc/", "root/", "tmp/"} {
		put(tar.Header{Name: dir, Mode: 0o755, Typeflag: tar.TypeDir}, nil)
	}
	put(tar.Header{Name: "bin/busybox", Mode: 0o755, Typeflag: tar.TypeReg}, b)
	for _, name := range []string{"sh", "cat", "sleep", "true", "echo", "chmod", "rm", "wc", "setsid", "head", "dd", "mkdir", "ls"} {
		put(tar.Header{Name: "bin/" + name, Linkname: "busybox", Typeflag: tar.TypeSymlink}, nil)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "tiny.tar")
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// request calls the API. The server may die meanwhile, which is an error.
func (m *matrix) request(method, path string, body, into any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, m.w.URL()+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("X-API-Key", m.w.Key())
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return fmt.Errorf("%s %s = %d %s", method, path, res.StatusCode, answer)
	}
	if into == nil || len(answer) == 0 {
		return nil
	}
	return json.Unmarshal(answer, into)
}

// start creates a build that passes every point and returns its name.
func (m *matrix) start() (name string, err error) {
	m.n++
	name = fmt.Sprintf("m%d", m.n)
	return name, m.request("POST", "/v1/builds", map[string]any{
		"name": name, "base_template": "tiny", "skip_pre_post": true,
		"recipe": []string{"RUN echo " + name + " > /made", "START sleep 100000", "RUN echo out; echo more >> /made"}, "healthcheck": "--interval=50ms CMD true",
	}, nil)
}

// find returns the newest build of a name.
func (m *matrix) find(name string) (built, error) {
	var list struct {
		Builds []built `json:"builds"`
	}
	if err := m.request("GET", "/v1/builds?name="+name, nil, &list); err != nil {
		return built{}, err
	}
	if len(list.Builds) != 1 {
		return built{}, fmt.Errorf("%d builds of %s, want 1", len(list.Builds), name)
	}
	return list.Builds[0], nil
}

// await waits until f finds nothing to complain about.
func (m *matrix) await(what string, f func() error) bool {
	m.t.Helper()
	var err error
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			return true
		}
	}
	m.t.Errorf("%s: %v\n%s", what, err, m.w.Log())
	return false
}

// idle compares what is there with what an idle platform has.
func (m *matrix) idle(v world.Inventory) error {
	switch {
	case len(v.Slots) != pooled || !slices.Equal(v.Sentries, v.Slots) || !slices.Equal(v.Groups, v.Slots) || len(v.Devices) != pooled:
		return fmt.Errorf("slots %v, sentries %v, control groups %v, devices %v, want %d of each", v.Slots, v.Sentries, v.Groups, v.Devices, pooled)
	case len(v.Records) > 0:
		return fmt.Errorf("records of sandboxes %v, want none", v.Records)
	case len(v.Leftovers) > 0:
		return fmt.Errorf("half-written files %v", v.Leftovers)
	}
	return nil
}

// nothingLeft wants an idle platform that holds exactly what versions name.
func (m *matrix) nothingLeft(what string) {
	m.t.Helper()
	m.await(what+": what is left", func() error {
		v := m.w.Inventory()
		if err := m.idle(v); err != nil {
			return err
		}
		have := slices.Concat(v.Images, v.Snapshots)
		want := slices.Concat(m.images, m.named())
		slices.Sort(have)
		slices.Sort(want)
		if want = slices.Compact(want); !slices.Equal(have, want) {
			return fmt.Errorf("%d artifacts %v, want %d %v", len(have), have, len(want), want)
		}
		return nil
	})
}

// named lists the digests that visible versions name.
func (m *matrix) named() []string {
	var all []string
	for cursor := ""; ; {
		var list struct {
			Templates []struct {
				ImageDigest    string  `json:"image_digest"`
				SnapshotDigest *string `json:"snapshot_digest"`
			} `json:"templates"`
			Next *string `json:"next_cursor"`
		}
		if err := m.request("GET", "/v1/templates?limit=100&cursor="+cursor, nil, &list); err != nil {
			return nil
		}
		for _, t := range list.Templates {
			all = append(all, strings.TrimPrefix(t.ImageDigest, "sha256:"))
			if t.SnapshotDigest != nil {
				all = append(all, strings.TrimPrefix(*t.SnapshotDigest, "sha256:"))
			}
		}
		if list.Next == nil || *list.Next == "" {
			return all
		}
		cursor = *list.Next
	}
}

// succeeds wants a build to end in success, exactly once, with a log without gap
// and double.
func (m *matrix) succeeds(what, name string) {
	m.t.Helper()
	var b built
	ended := m.await(what+": the build's end", func() (err error) {
		if b, err = m.find(name); err != nil {
			return err
		}
		if !slices.Contains([]string{"success", "failed", "cancelled"}, b.Status) {
			return fmt.Errorf("build %s is %s, attempt %d", b.ID, b.Status, b.Attempt)
		}
		return nil
	})
	if !ended {
		return
	}
	if b.Status != "success" || b.Artifact == nil || b.Artifact.SnapshotDigest == nil {
		m.t.Errorf("%s: build %+v (%+v), want success and a snapshot", what, b, b.Error)
		return
	}
	if rows := versionRows(m.t, m.w, b.ID); rows != 1 {
		m.t.Errorf("%s: %d version rows of build %s, want 1", what, rows, b.ID)
	}
	checkSeqs(m.t, m.w, b.ID)
}

// kill arms a point, lets act pass it, and starts the platform again when it has
// died there. It reports false where the point was not passed.
func (m *matrix) kill(p failpoint.Point, act func()) bool {
	m.t.Helper()
	if err := m.points.Arm(p, failpoint.Kill); err != nil {
		m.t.Fatal(err)
	}
	act()
	died := m.await(string(p)+": the platform's death", func() error {
		if !m.w.Ended() {
			return errors.New("lehr up lives")
		}
		return nil
	})
	if !died {
		m.points.Disarm(p)
		return false
	}
	m.w.Up()
	return true
}

// TestCrashMatrix kills lehr up at every transition of a build of a snapshot
// template and starts it again: each build ends in success, in exactly one
// version, with a whole log, and nothing is left behind.
func TestCrashMatrix(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	for _, p := range failpoint.Builds() {
		begun := time.Now()
		name := ""
		act := func() { name, _ = m.start() } // the answer may be lost
		switch p {
		case failpoint.CancelAfterCommit:
			m.killCancel(p)
			continue
		case failpoint.ReapAfterCommit:
			act = func() {
				name = m.paused(failpoint.StepAfterEnd)
				m.w.Kill9()
				m.w.UpMayDie()
			}
		}
		if m.kill(p, act) {
			m.succeeds(string(p), name)
			m.nothingLeft(string(p))
		}
		t.Logf("%s: %v", p, time.Since(begun).Round(time.Millisecond))
	}
}

// paused starts a build that stands still at a point.
func (m *matrix) paused(p failpoint.Point) (name string) {
	m.t.Helper()
	if err := m.points.Arm(p, failpoint.Pause); err != nil {
		m.t.Fatal(err)
	}
	name, err := m.start()
	if err != nil {
		m.t.Fatal(err)
	}
	m.await(string(p)+": the build's arrival", func() error {
		if !m.points.Reached(p) {
			return errors.New("not reached")
		}
		return nil
	})
	return name
}

// killCancel kills lehr up between a cancel's record and its signal.
func (m *matrix) killCancel(p failpoint.Point) {
	m.t.Helper()
	name := m.paused(failpoint.StepAfterEnd)
	b, err := m.find(name)
	if err != nil {
		m.t.Fatal(err)
	}
	if m.kill(p, func() { _ = m.request("POST", "/v1/builds/"+b.ID+"/cancel", nil, nil) }) {
		m.cancelled(string(p), name)
		m.nothingLeft(string(p))
	}
}

// cancelled wants a build that was cancelled to have no version and to end its
// log with the cancel.
func (m *matrix) cancelled(what, name string) {
	m.t.Helper()
	b, err := m.find(name)
	if err != nil || b.Status != "cancelled" || b.Artifact != nil {
		m.t.Errorf("%s: build %+v, %v, want cancelled without an artifact", what, b, err)
		return
	}
	if rows := versionRows(m.t, m.w, b.ID); rows != 0 {
		m.t.Errorf("%s: %d version rows of a cancelled build", what, rows)
	}
	if err := m.request("GET", "/v1/templates/"+name, nil, nil); err == nil {
		m.t.Errorf("%s: the template of a cancelled build is visible", what)
	}
	checkSeqs(m.t, m.w, b.ID)
}

// cancellable are the points at which an attempt can be cancelled.
func cancellable() []failpoint.Point {
	ends := []failpoint.Point{
		failpoint.CreateAfterInsert, failpoint.CreateAfterPush, failpoint.QueueAfterPop, failpoint.PublishAfterCommit,
		failpoint.EndBeforeRecord, failpoint.EndAfterRecord, failpoint.CancelAfterCommit, failpoint.ReapAfterCommit,
		failpoint.CleanBeforeDestroy, failpoint.CleanBeforeArtifacts, failpoint.CleanBeforeMark, failpoint.CleanAfterMark,
	}
	return slices.DeleteFunc(failpoint.Builds(), func(p failpoint.Point) bool { return slices.Contains(ends, p) })
}

// TestCancelMatrix cancels a build at every transition, and against its success
// in the same moment: one of the two wins, and of a cancelled build nothing is
// visible or left.
func TestCancelMatrix(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	for _, p := range cancellable() {
		begun := time.Now()
		name := m.paused(p)
		b, err := m.find(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.request("POST", "/v1/builds/"+b.ID+"/cancel", nil, nil); err != nil {
			t.Errorf("%s: cancel = %v, want nil", p, err)
		}
		if err := m.points.Resume(p); err != nil {
			t.Fatal(err)
		}
		m.cancelled(string(p), name)
		m.nothingLeft(string(p))
		m.cancelled(string(p), name) // a late end changes nothing
		t.Logf("%s: %v", p, time.Since(begun).Round(time.Millisecond))
	}
	m.cancelAgainstSuccess(10)
}

func (m *matrix) cancelAgainstSuccess(rounds int) {
	m.t.Helper()
	won := map[string]int{}
	for range rounds {
		name := m.paused(failpoint.PublishBeforeCommit)
		b, err := m.find(name)
		if err != nil {
			m.t.Fatal(err)
		}
		var race sync.WaitGroup
		var cancelErr error
		race.Go(func() { _ = m.points.Resume(failpoint.PublishBeforeCommit) })
		race.Go(func() { cancelErr = m.request("POST", "/v1/builds/"+b.ID+"/cancel", nil, nil) })
		race.Wait()
		m.await("the race's end", func() (err error) {
			if b, err = m.find(name); err == nil && b.Status == "running" {
				err = errors.New("running")
			}
			return err
		})
		won[b.Status]++
		if cancelErr == nil {
			m.cancelled("race", name)
		} else {
			m.succeeds("race", name)
		}
	}
	m.nothingLeft("the races")
	m.t.Logf("winners: %v", won)
}

// TestAgentCrashMatrix kills the agent at every transition of sandboxes, slots
// and artifacts: it comes back, every build ends in success, every sandbox in one
// state that record and machine agree on, and nothing is left behind.
func TestAgentCrashMatrix(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	for _, p := range failpoint.Agents() {
		begun := time.Now()
		if err := m.points.Arm(p, failpoint.Kill); err != nil {
			t.Fatal(err)
		}
		name, err := m.start()
		if err != nil {
			t.Errorf("%s: create = %v", p, err)
			continue
		}
		if p == failpoint.HostExpireBegin {
			m.boxUntilItExpires()
		}
		if p == failpoint.HostRemoveBegin || p == failpoint.HostRemoveEnd {
			m.succeeds(string(p), name)
			if err := m.request("DELETE", "/v1/templates/"+name, nil, nil); err != nil {
				t.Errorf("%s: remove = %v", p, err)
			}
			name = ""
		}
		m.await(string(p)+": the agent's death", func() error {
			if !m.points.Reached(p) {
				return errors.New("not reached")
			}
			return nil
		})
		m.points.Disarm(p)
		if name != "" {
			m.succeeds(string(p), name)
		}
		m.await(string(p)+": an idle platform", func() error { return m.idle(m.w.Inventory()) })
		t.Logf("%s: %v", p, time.Since(begun).Round(time.Millisecond))
	}
	// What an agent made and told nobody is nobody's: the next start finds it.
	m.w.Kill9()
	m.w.Up()
	m.nothingLeft("agent")
}

// boxUntilItExpires makes a sandbox that its host ends by itself.
func (m *matrix) boxUntilItExpires() {
	m.t.Helper()
	if err := m.request("POST", "/v1/sandboxes", map[string]any{"template": "tiny", "timeout": "200ms"}, nil); err != nil {
		m.t.Errorf("create = %v", err)
	}
}

// TestSandboxCrashMatrix kills lehr up at every transition of a sandbox: after the
// next start record and machine agree, and what nobody was told of is gone.
func TestSandboxCrashMatrix(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	for _, p := range failpoint.Boxes() {
		create := func() { _ = m.request("POST", "/v1/sandboxes", map[string]any{"template": "tiny"}, nil) }
		act := create
		if p == failpoint.BoxAfterEnd || p == failpoint.BoxAfterDestroy {
			create()
			act = m.killBoxes
		}
		if !m.kill(p, act) {
			continue
		}
		m.await(string(p)+": record and host", func() error {
			v := m.w.Inventory()
			running := m.boxes()
			if len(v.Records) != len(running) {
				return fmt.Errorf("the API has %v, the host %v", running, v.Records)
			}
			for _, b := range running {
				if b.State != "running" || !slices.Contains(v.Records, b.ID+".json") {
					return fmt.Errorf("sandbox %s is %s, the host has %v", b.ID, b.State, v.Records)
				}
			}
			return nil
		})
		m.killBoxes()
		m.nothingLeft(string(p))
	}
}

// boxes lists the live sandboxes.
func (m *matrix) boxes() []box {
	var list struct {
		Sandboxes []box `json:"sandboxes"`
	}
	if err := m.request("GET", "/v1/sandboxes", nil, &list); err != nil {
		m.t.Errorf("list = %v", err)
	}
	return list.Sandboxes
}

func (m *matrix) killBoxes() {
	for _, b := range m.boxes() {
		_ = m.request("DELETE", "/v1/sandboxes/"+b.ID, nil, nil) // the answer may be lost
	}
}
