package gvisor

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/control"
)

// FuzzReply gives any bytes for the answer of a sentry.
func FuzzReply(f *testing.F) {
	f.Add([]byte(`{"success":true,"err":"","result":{"results":[]}}`))
	f.Add([]byte(`{"success":false,"err":"no such file or directory"}`))
	f.Add([]byte(`{"success":true,"result":[[[[[[[[[[[`))
	f.Add([]byte{0, 1, 2})
	f.Fuzz(func(t *testing.T, answer []byte) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ours, sentry := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "sentry")
		conn, err := net.FileConn(ours)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		defer ours.Close()
		go func() {
			_, _ = sentry.Write(answer)
			_ = unix.Shutdown(pair[1], unix.SHUT_WR)
			_, _ = sentry.Read(make([]byte, 4096))
			_ = sentry.Close()
		}()
		var out control.CgroupsResults
		_ = exchange(conn.(*net.UnixConn), request{Method: "x"}, &out, nil)
	})
}

// FuzzRecord reads any file as the record of a slot.
func FuzzRecord(f *testing.F) {
	id := newSlotID()
	f.Add([]byte(`{"version":1,"slot":"` + string(id) + `","state":"running","sentry":{"pid":1}}`))
	f.Add([]byte(`{"slot":"../.."}`))
	f.Add([]byte(`{"version":1e99}`))
	dir := filepath.Join(f.TempDir(), string(id))
	if err := os.Mkdir(dir, 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, recordName), b, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := loadRecord(dir)
		if err != nil {
			return
		}
		if r.Slot != id {
			t.Errorf("the record of slot %s names %q", id, r.Slot)
		}
		_ = r.status()
	})
}
