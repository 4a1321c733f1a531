package enginetest

import (
	"strconv"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

var limitTests = []subtest{
	{"memory beyond the limit ends it as oom", testOOM},
	{"memory within the limit is there", testMemoryThere},
	{"too many processes fail or end it as pids", testProcesses},
	{"a full disk is ENOSPC and the sandbox lives", testDiskFull},
	{"the disk is larger than the memory", testDiskBeyondMemory},
	{"cpu time is throttled to the quota", testCPU},
}

func testOOM(t *testing.T, b *bench) {
	_, sb := b.boot(t, lehr.Resources{VCPUs: 1, MemoryMB: 128, DiskMB: 64})
	out, err := b.Run(b.ctx(t), sb, "eat", "512")
	if err == nil {
		t.Fatalf("eat 512 in 128 MB = %q, want the sandbox to end", out)
	}
	b.wantReason(t, sb, lehr.ReasonOOM)
}

func testMemoryThere(t *testing.T, b *bench) {
	_, sb := b.boot(t, lehr.Resources{VCPUs: 1, MemoryMB: 384, DiskMB: 64})
	b.do(t, sb, "eat", "192")
	b.do(t, sb, "echo", "alive")
}

func testProcesses(t *testing.T, b *bench) {
	_, sb := b.boot(t, lehr.Resources{VCPUs: 1, MemoryMB: 1024, DiskMB: 64})
	out, err := b.Run(b.ctx(t), sb, "fork", strconv.Itoa(b.Processes))
	if err == nil {
		t.Fatalf("fork %d = %q, want the limit to show", b.Processes, out)
	}
	if hasErrno(err, "EAGAIN") {
		b.do(t, sb, "echo", "alive") // the fork failed; the sandbox goes on
		return
	}
	// Where a process costs much memory, that limit may be the first.
	if exit := b.wait(t, sb); exit.Reason != lehr.ReasonPids && exit.Reason != lehr.ReasonOOM {
		t.Errorf("Wait() = %+v, want reason pids or oom", exit)
	}
}

func testDiskFull(t *testing.T, b *bench) {
	_, sb := b.boot(t, lehr.Resources{VCPUs: 1, MemoryMB: 256, DiskMB: 64})
	out, err := b.Run(b.ctx(t), sb, "write", "/full", "100")
	if !hasErrno(err, "ENOSPC") {
		t.Fatalf("write 100 MB to a 64 MB disk = %q, %v, want ENOSPC", out, err)
	}
	if n := number(t, parseFields(out), "written"); n > 64<<20 || n < 32<<20 {
		t.Errorf("written before ENOSPC = %d, want at most 64 MB and not much less", n)
	}
	b.do(t, sb, "echo", "alive")
	b.do(t, sb, "delete", "/full")
	b.do(t, sb, "write", "/again", "16")
}

func testDiskBeyondMemory(t *testing.T, b *bench) {
	_, sb := b.boot(t, lehr.Resources{VCPUs: 1, MemoryMB: 128, DiskMB: 1024})
	out := b.fields(t, sb, "write", "/big", "400")
	if n := number(t, out, "written"); n != 400<<20 {
		t.Errorf("written = %d, want %d", n, 400<<20)
	}
	b.do(t, sb, "echo", "alive")
}

// testCPU proves the quota by what is charged during a wall-clock window: four
// busy threads of a one-CPU sandbox. Half a CPU of slack covers accounting and
// the isolation's own threads. On a machine with one idle CPU it proves nothing.
func testCPU(t *testing.T, b *bench) {
	slot, sb := b.boot(t, small)
	before, start := b.charged(t, slot), time.Now()
	out := b.fields(t, sb, "burn", "4", "3000")
	wall := time.Since(start)
	cpu := b.charged(t, slot) - before
	if b.CPUTime == nil {
		cpu = time.Duration(number(t, out, "cpu_ns"))
		wall = time.Duration(number(t, out, "wall_ns"))
	}
	if number(t, out, "work") == 0 || cpu <= 0 {
		t.Errorf("burn = %v, %v charged: nothing was done", out, cpu)
	}
	if limit := wall + wall/2; cpu > limit {
		t.Errorf("four busy threads were charged %v in %v, want at most one CPU (%v with slack)", cpu, wall, limit)
	}
	t.Logf("charged %v in %v", cpu, wall)
}

// charged returns the CPU time on the host's account, 0 where nobody knows.
func (b *bench) charged(t *testing.T, slot engine.SlotID) time.Duration {
	t.Helper()
	if b.CPUTime == nil {
		return 0
	}
	d, err := b.CPUTime(b.ctx(t), slot)
	if err != nil {
		t.Fatalf("CPUTime() = %v", err)
	}
	return d
}

// unavailableOr lists the kinds of a refusal that an engine may also answer
// with Unavailable.
func unavailableOr(kinds ...errs.Kind) []errs.Kind { return append(kinds, errs.Unavailable) }
