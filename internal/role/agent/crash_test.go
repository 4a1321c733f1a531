package agent_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/host"
	"github.com/lehr-dev/lehr/internal/hostrpc"
	"github.com/lehr-dev/lehr/internal/lehr"
	role "github.com/lehr-dev/lehr/internal/role/agent"
)

// agentData makes this test binary an agent on that data folder.
const agentData = "LEHR_TEST_AGENT_DATA"

func TestMain(m *testing.M) {
	data := os.Getenv(agentData)
	if data == "" {
		os.Exit(m.Run())
	}
	err := role.Run(context.Background(), role.Options{
		Data: data, Socket: filepath.Join(data, "agent.sock"), Ready: func() { fmt.Println("ready") },
	})
	fmt.Println(err)
	os.Exit(1)
}

// startProcess runs an agent as a process of its own, until it is killed.
func startProcess(t *testing.T, data string) (*exec.Cmd, *hostrpc.Client) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), agentData+"="+data)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	line := make([]byte, 512)
	if n, err := out.Read(line); err != nil || string(line[:n]) != "ready\n" {
		t.Fatalf("the agent says %q, %v", line[:n], err)
	}
	client := hostrpc.DialUnix(filepath.Join(data, "agent.sock"))
	t.Cleanup(func() { _ = client.Close() })
	return cmd, client
}

func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill() // it may have ended already
	_ = cmd.Wait()
}

// TestKilledAgent kills an agent with SIGKILL. A loop in a sandbox that writes a
// rising number with the time, begun before, goes on without a gap, as the same
// process, and the next agent serves the sandbox.
func TestKilledAgent(t *testing.T) {
	needRoot(t)
	data := newData(t)
	first, a := startProcess(t, data)
	base := busybox(t, a)
	id := create(t, a, base.Digest, "")
	sh(t, a, id, "(echo $$ > /run/pid; i=0; while :; do i=$((i+1)); echo $i $(cat /proc/uptime) >> /run/beats; sleep 0.01; done) > /dev/null 2>&1 &")
	pid := sh(t, a, id, "until cat /run/pid 2> /dev/null; do :; done")
	before := uptime(t, a, id)
	kill(first)

	second, again := startProcess(t, data)
	sb, err := again.GetSandbox(t.Context(), id)
	if err != nil || sb.State != lehr.SandboxRunning {
		t.Fatalf("GetSandbox() after kill -9 = %+v, %v", sb, err)
	}
	if now := sh(t, again, id, "cat /run/pid"); now != pid {
		t.Errorf("the process is %q, was %q", now, pid)
	}
	after := uptime(t, again, id)
	checkBeats(t, sh(t, again, id, "cat /run/beats"), before, after)
	if err := again.DestroySandbox(t.Context(), id); err != nil {
		t.Errorf("DestroySandbox() = %v", err)
	}

	kill(second) // with slots in its pool, which are the next agent's to remove
	start(t, data, 0, host.Pool{}).stop(t)
	if left, err := belongings(data); err != nil || len(left) > 0 {
		t.Errorf("after an agent that ended well there is %q, %v", left, err)
	}
}

// uptime is how old the sandbox is, in seconds, by its own clock.
func uptime(t *testing.T, a agent.Agent, id lehr.SandboxID) float64 {
	t.Helper()
	return seconds(t, strings.Fields(sh(t, a, id, "cat /proc/uptime"))[0])
}

func seconds(t *testing.T, text string) float64 {
	t.Helper()
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// checkBeats checks that the numbers rise by one and that some were written
// between the two times, when there was no agent.
func checkBeats(t *testing.T, beats string, before, after float64) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(beats), "\n")
	between := 0
	for i, line := range lines[:len(lines)-1] { // the last may be half written
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != strconv.Itoa(i+1) {
			t.Fatalf("line %d of the loop is %q", i+1, line)
		}
		if at := seconds(t, f[1]); at > before && at < after {
			between++
		}
	}
	if between == 0 {
		t.Errorf("the loop wrote nothing from %.2f s to %.2f s, while there was no agent", before, after)
	}
	t.Logf("%d of %d lines were written while there was no agent", between, len(lines))
}
