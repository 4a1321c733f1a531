package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	rpc "connectrpc.com/connect"

	"github.com/lehr-dev/lehr/api/gen/envd/filesystem"
	"github.com/lehr-dev/lehr/api/gen/envd/filesystem/filesystemconnect"
	"github.com/lehr-dev/lehr/api/gen/envd/process"
	"github.com/lehr-dev/lehr/api/gen/envd/process/processconnect"
	"github.com/lehr-dev/lehr/test/world"
)

// envTransfer sets how many MB TestGuest sends each way.
const envTransfer = "LEHR_TEST_TRANSFER_MB"

// inside is the guest daemon of a sandbox as a user's program reaches it:
// through the gateway, with the access token.
type inside struct {
	w         *world.World
	id        string
	token     string
	http      *http.Client
	processes processconnect.ProcessClient
	files     filesystemconnect.FilesystemClient
}

func enter(t *testing.T, w *world.World, args ...string) *inside {
	t.Helper()
	var b struct {
		ID    string `json:"id"`
		Token string `json:"access_token"`
	}
	w.JSON(&b, append([]string{"sandbox", "create"}, args...)...)
	t.Cleanup(func() { w.Run("sandbox", "kill", b.ID) })
	in := &inside{w: w, id: b.ID, token: b.Token}
	in.http = &http.Client{Transport: in}
	in.processes = processconnect.NewProcessClient(in.http, w.URL(), rpc.WithProtoJSON())
	in.files = filesystemconnect.NewFilesystemClient(in.http, w.URL(), rpc.WithProtoJSON())
	return in
}

// RoundTrip implements http.RoundTripper: it names the sandbox and its daemon.
func (in *inside) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("E2b-Sandbox-Id", in.id)
	r.Header.Set("E2b-Sandbox-Port", "49983")
	r.Header.Set("X-Access-Token", in.token)
	return http.DefaultTransport.RoundTrip(r)
}

// sh runs a script in the sandbox and returns what it writes.
func (in *inside) sh(script string) string {
	return in.w.OK("sandbox", "exec", in.id, "--", "sh", "-c", script)
}

// send uploads body; header is pairs of names and values.
func (in *inside) send(t *testing.T, path string, body io.Reader, header ...string) (int, string) {
	t.Helper()
	return in.call(t, http.MethodPost, "/files?path="+url.QueryEscape(path), body, append(header, "Content-Type", "application/octet-stream")...)
}

func (in *inside) call(t *testing.T, method, target string, body io.Reader, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, in.w.URL()+target, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := in.http.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return resp.StatusCode, string(text)
}

// The guest daemon in a real sandbox, as the SDKs of users drive it.
func TestGuest(t *testing.T) {
	t.Parallel()
	w := world.Start(t)
	size := transferSize(t)
	in := enter(t, w, "minimal", "--memory", "512", "--disk", strconv.Itoa(size+1024))
	for name, test := range map[string]func(*testing.T, *inside){
		"terminal": testTerminal, "watch": testWatch, "metadata": testMetadata, "metrics": testMetrics,
		"forbidden": testForbidden, "the daemon's own": testDaemonsOwn, "nothing left": testNothingLeft,
	} {
		t.Run(name, func(t *testing.T) { test(t, in.at(t)) })
	}
	t.Run("transfer", func(t *testing.T) { testTransfer(t, in.at(t), int64(size)<<20) })
}

// at is in for a subtest.
func (in *inside) at(t *testing.T) *inside {
	return &inside{w: in.w.In(t), id: in.id, token: in.token, http: in.http, processes: in.processes, files: in.files}
}

func transferSize(t *testing.T) int {
	t.Helper()
	text := os.Getenv(envTransfer)
	if text == "" {
		return 1024
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s = %q, want a number of MB", envTransfer, text)
	}
	return n
}

// A shell in a terminal of a sandbox has its size, which changes, and job
// control; its exit is data.
func testTerminal(t *testing.T, in *inside) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := in.processes.Start(ctx, rpc.NewRequest(&process.StartRequest{
		Process: &process.ProcessConfig{
			Cmd: "/bin/bash", Args: []string{"--norc", "--noprofile", "--noediting", "-i"}, Envs: map[string]string{"PS1": "> "},
		},
		Pty: &process.PTY{Size: &process.PTY_Size{Cols: 100, Rows: 30}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var pid uint32
	var screen string
	var end *process.ProcessEvent_EndEvent
	shows := func(text string) {
		t.Helper()
		for !strings.Contains(screen, text) {
			if !stream.Receive() {
				t.Fatalf("the stream ended with %v; the terminal shows %q, and not %q", stream.Err(), screen, text)
			}
			e := stream.Msg().GetEvent()
			pid = max(pid, e.GetStart().GetPid())
			screen += string(e.GetData().GetPty())
			if end = e.GetEnd(); end != nil && text == "" {
				return
			}
		}
		_, screen, _ = strings.Cut(screen, text)
	}
	types := func(text string) {
		t.Helper()
		_, err := in.processes.SendInput(ctx, rpc.NewRequest(&process.SendInputRequest{
			Process: selector(pid), Input: &process.ProcessInput{Input: &process.ProcessInput_Pty{Pty: []byte(text)}},
		}))
		if err != nil {
			t.Fatal(err)
		}
	}
	shows("> ")
	types("stty size; tty\n")
	shows("30 100")
	shows("/dev/pts/")
	types("trap 'echo resi''zed $(stty size)' WINCH; echo tr''apped\n")
	shows("trapped")
	_, err = in.processes.Update(ctx, rpc.NewRequest(&process.UpdateRequest{
		Process: selector(pid), Pty: &process.PTY{Size: &process.PTY_Size{Cols: 132, Rows: 43}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	types("\n")
	shows("resized 43 132")
	types("sh -c 'echo run''ning; exec sleep 1000'\n")
	shows("running")
	types("\x03")
	types("echo in''terrupted $?\n")
	shows("interrupted 130")
	types("exit 3\n")
	for end == nil && stream.Receive() {
		end = stream.Msg().GetEvent().GetEnd()
	}
	if end.GetExitCode() != 3 || !end.GetExited() {
		t.Errorf("the shell ended with %v, %v; want code 3", end, stream.Err())
	}
}

func selector(pid uint32) *process.ProcessSelector {
	return &process.ProcessSelector{Selector: &process.ProcessSelector_Pid{Pid: pid}}
}

// What commands change in a folder is told, also in folders that are new.
func testWatch(t *testing.T, in *inside) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in.sh("mkdir -p /root/watched/a /root/watched/b")
	stream, err := in.files.WatchDir(ctx, rpc.NewRequest(&filesystem.WatchDirRequest{Path: "/root/watched", Recursive: true, IncludeEntry: true}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if !stream.Receive() || stream.Msg().GetStart() == nil {
		t.Fatalf("WatchDir begins with %v, %v; want start", stream.Msg(), stream.Err())
	}
	in.sh("cd /root/watched && mkdir -p a/new/deep && echo x > a/new/deep/f && mv a/new b/moved && chmod 700 b/moved/deep/f && rm b/moved/deep/f && mkdir end")
	told := map[string]int{}
	for told["CREATE end"] == 0 {
		if !stream.Receive() {
			t.Fatalf("the stream ended with %v after %v", stream.Err(), told)
		}
		if e := stream.Msg().GetFilesystem(); e != nil {
			told[strings.TrimPrefix(e.GetType().String(), "EVENT_TYPE_")+" "+e.GetName()]++
		}
	}
	for _, want := range []string{
		"CREATE a/new", "CREATE a/new/deep", "CREATE a/new/deep/f", "RENAME a/new", "CREATE b/moved", "CREATE b/moved/deep", "CREATE b/moved/deep/f",
		"CHMOD b/moved/deep/f", "REMOVE b/moved/deep/f",
	} {
		if told[want] != 1 {
			t.Errorf("%q was told %d times, want once; all: %v", want, told[want], told)
		}
	}
}

// Metadata is kept in every writable file system of a sandbox, and a template
// can be made of files that carry it; it is not part of an image.
func testMetadata(t *testing.T, in *inside) {
	for _, path := range []string{"/root/m", "/tmp/m", "/dev/shm/m", "/etc/debian_version"} {
		if status, text := in.send(t, path, strings.NewReader("content"), "X-Metadata-Author", "me"); status != 200 || !strings.Contains(text, `"author":"me"`) {
			t.Errorf("upload to %s with metadata = %d %s", path, status, text)
			continue
		}
		answer, err := in.files.Stat(t.Context(), rpc.NewRequest(&filesystem.StatRequest{Path: path}))
		if err != nil || answer.Msg.GetEntry().GetMetadata()["author"] != "me" {
			t.Errorf("Stat of %s = %v, %v; want its metadata", path, answer, err)
		}
	}
	if status, text := in.send(t, "/proc/self/comm", strings.NewReader("x"), "X-Metadata-Author", "me"); status < 400 || !strings.Contains(text, "metadata") {
		t.Errorf("metadata where none is kept = %d %s, want a refusal that says so", status, text)
	}
	// 188 is setxattr; perl is in the base, setfattr is not.
	recipe := "RUN echo content > /root/marked && perl -e 'my ($file, $name, $value) = (\"/root/marked\", \"user.e2b.author\", \"me\"); syscall(188, $file, $name, $value, 2, 0) == 0 or die $!'\n"
	in.w.OKInput(recipe, "build", "-t", "marked", "-f", "-", "--skip-pre-post")
	from := enter(t, in.w, "marked")
	if got := from.sh("cat /root/marked"); got != "content\n" {
		t.Errorf("a file with metadata is %q in a sandbox of its template, want its content", got)
	}
	answer, err := from.files.Stat(t.Context(), rpc.NewRequest(&filesystem.StatRequest{Path: "/root/marked"}))
	if err != nil || len(answer.Msg.GetEntry().GetMetadata()) > 0 {
		t.Errorf("its metadata = %v, %v; images keep none", answer, err)
	}
}

type guestMetrics struct {
	Timestamp int64   `json:"ts"`
	CPUs      int     `json:"cpu_count"`
	CPUUsed   float64 `json:"cpu_used_pct"`
	MemTotal  int64   `json:"mem_total"`
	MemUsed   int64   `json:"mem_used"`
	DiskUsed  int64   `json:"disk_used"`
	DiskTotal int64   `json:"disk_total"`
}

func (in *inside) metrics(t *testing.T) (m guestMetrics) {
	t.Helper()
	status, text := in.call(t, http.MethodGet, "/metrics", nil)
	if err := json.Unmarshal([]byte(text), &m); err != nil || status != 200 {
		t.Fatalf("GET /metrics = %d %s: %v", status, text, err)
	}
	return m
}

// Metrics are the sandbox's own limits and what it uses of them.
func testMetrics(t *testing.T, in *inside) {
	var b struct {
		CPUs   int   `json:"vcpus"`
		Memory int64 `json:"memory_mb"`
		Disk   int64 `json:"disk_mb"`
	}
	in.w.JSON(&b, "sandbox", "get", in.id)
	before := in.metrics(t)
	if before.CPUs != b.CPUs || before.MemTotal != b.Memory<<20 || before.DiskTotal != b.Disk<<20 {
		t.Errorf("metrics = %+v, want %d CPUs, %d MB of memory and %d of disk", before, b.CPUs, b.Memory, b.Disk)
	}
	const written = 64 << 20
	in.sh("head -c " + strconv.Itoa(written) + " /dev/zero > /root/written; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
	after := in.metrics(t)
	if grown := after.DiskUsed - before.DiskUsed; grown < written || grown > written+written/8 {
		t.Errorf("after %d bytes were written the disk in use grew by %d", int64(written), grown)
	}
	if after.CPUUsed <= 0 || after.CPUUsed > 100 {
		t.Errorf("after some work %v %% of the CPU were used, want more than 0 and at most 100", after.CPUUsed)
	}
	if after.MemUsed <= 0 || after.MemUsed >= after.MemTotal {
		t.Errorf("%d of %d bytes of memory are in use", after.MemUsed, after.MemTotal)
	}
	in.sh("rm /root/written")
}

// What may not be read is refused, and nothing of it hangs the daemon.
func testForbidden(t *testing.T, in *inside) {
	in.sh("mkfifo -m 666 /tmp/fifo; ln -sf /proc/thread-self/mem /tmp/mem; echo secret > /root/secret; chmod 600 /root/secret")
	for path, want := range map[string]int{
		"/tmp/fifo": 400, "/dev/zero": 400, "/dev/full": 400, "/dev/ptmx": 400, "/": 400,
		"/root/secret": 403, "/tmp/mem": 403, "/proc/self/mem": 403, "/proc/1/mem": 403, "/proc/1/environ": 403,
		"/tmp/../root/secret": 403, "/tmp/absent": 404,
	} {
		status, text := in.call(t, http.MethodGet, "/files?username=nobody&path="+url.QueryEscape(path), nil)
		if status != want {
			t.Errorf("GET %s as nobody = %d %.100s, want %d", path, status, text, want)
		}
	}
}

// What the kernel shows of the daemon is not even root's.
func testDaemonsOwn(t *testing.T, in *inside) {
	for _, path := range []string{"/proc/1/mem", "/proc/self/mem", "/proc/thread-self/mem", "/proc/1/environ", "/proc/self/environ"} {
		if status, text := in.call(t, http.MethodGet, "/files?username=root&path="+path, nil); status != 403 {
			t.Errorf("GET %s as root = %d %.100s, want 403", path, status, text)
		}
	}
}

// Thousands of processes, most of them nobody's children, leave nothing.
func testNothingLeft(t *testing.T, in *inside) {
	processes := func() string { return in.sh("ls /proc | grep -c '^[0-9]'") }
	before := processes()
	in.sh("i=0; while [ $i -lt 2000 ]; do i=$((i+1)); (true &); done; wait")
	for after := processes(); after != before; after = processes() {
		select {
		case <-t.Context().Done():
			t.Fatalf("%s processes, want %s", after, before)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// pattern is a stream of numbers that differs everywhere.
type pattern struct {
	left int64
	next uint64
	sum  hash.Hash
}

// Read implements io.Reader.
func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(b))&^7, p.left)
	for i := int64(0); i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], p.next*0x9e3779b97f4a7c15)
		p.next++
	}
	p.sum.Write(b[:n])
	p.left -= n
	return int(n), nil
}

// A large file goes in and comes out whole, and the daemon does not grow with
// it.
func testTransfer(t *testing.T, in *inside, size int64) {
	memory := func() int64 {
		var kib int64
		if _, err := fmt.Sscan(strings.Fields(in.sh("grep VmRSS /proc/1/status"))[1], &kib); err != nil {
			t.Fatal(err)
		}
		return kib << 10
	}
	if status, text := in.send(t, "/root/small", bytes.NewReader(make([]byte, 8<<20))); status != 200 {
		t.Fatalf("upload = %d %s", status, text)
	}
	before, began := memory(), time.Now()
	source := &pattern{left: size, sum: sha256.New()}
	if status, text := in.send(t, "/root/large", source); status != 200 {
		t.Fatalf("upload of %d MB = %d %s", size>>20, status, text)
	}
	up, between := time.Since(began), memory()
	want := hex.EncodeToString(source.sum.Sum(nil))
	began = time.Now()
	got := in.download(t, "/root/large")
	down, after := time.Since(began), memory()
	if got != want {
		t.Errorf("%d MB came back as %s, want %s", size>>20, got, want)
	}
	const slack = 24 << 20
	if between > before+slack || after > before+slack {
		t.Errorf("the daemon had %d MB before, %d MB after the upload and %d MB after the download", before>>20, between>>20, after>>20)
	}
	if used := in.metrics(t).DiskUsed; used < size {
		t.Errorf("metrics tell %d bytes of disk in use, want at least %d", used, size)
	}
	t.Logf("%d MB: up in %s (%d MB/s), down in %s (%d MB/s), the daemon's memory %d, %d, %d MB", size>>20,
		up.Round(time.Second), int64(float64(size>>20)/up.Seconds()), down.Round(time.Second), int64(float64(size>>20)/down.Seconds()),
		before>>20, between>>20, after>>20)
}

// download returns the sum of a file.
func (in *inside) download(t *testing.T, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, in.w.URL()+"/files?path="+url.QueryEscape(path), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := in.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("download = %d, %v", resp.StatusCode, err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}
