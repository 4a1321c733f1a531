package lehr

import (
	"encoding/hex"
	"sort"
	"strings"
	"testing"
)

func TestIDsParseAndSortByTime(t *testing.T) {
	var ids []string
	for range 100 {
		id := NewBuildID()
		if got, err := ParseBuildID(string(id)); err != nil || got != id {
			t.Fatalf("ParseBuildID(%q) = %q, %v, want it back", id, got, err)
		}
		ids = append(ids, string(id))
	}
	if !sort.StringsAreSorted(ids) {
		t.Errorf("ids of one process do not sort by creation: %q", ids)
	}
	if len(NewSandboxID()) != len("sb")+26 || strings.Contains(string(NewSandboxID()), "-") {
		t.Errorf("NewSandboxID() = %q, want sb and 26 characters without a hyphen", NewSandboxID())
	}
}

// The examples are computed by hand: 128 bits, left-padded with two zero bits
// to 26 characters of 5 bits, as in the ULID specification.
func TestEncodeIDIsCrockford(t *testing.T) {
	tests := map[string]string{
		"00000000000000000000000000000000": "00000000000000000000000000",
		"ffffffffffffffffffffffffffffffff": "7zzzzzzzzzzzzzzzzzzzzzzzzz",
		"00000000000000000000000000000020": "00000000000000000000000010",
	}
	for in, want := range tests {
		b, err := hex.DecodeString(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := encodeID([16]byte(b)); got != want {
			t.Errorf("encodeID(%s) = %s, want %s", in, got, want)
		}
	}
}

func TestParseIDRefuses(t *testing.T) {
	for _, s := range []string{
		"", "bld-", "tpl-" + strings.Repeat("0", 26), "bld-" + strings.Repeat("0", 25), "bld-" + strings.Repeat("0", 27),
		"bld-" + strings.Repeat("u", 26), "BLD-" + strings.Repeat("0", 26), "bld-../../etc/passwd0000000000", "bld-" + strings.Repeat("0", 25) + "\n",
		strings.Repeat("x", 1<<20),
	} {
		if _, err := ParseBuildID(s); err == nil || len(err.Error()) > 300 {
			t.Errorf("ParseBuildID(%.40q) = %v, want a short error", s, err)
		}
	}
	if _, err := ParseTeamID(string(PlatformTeam)); err != nil {
		t.Errorf("ParseTeamID(PlatformTeam) = %v", err)
	}
}

func TestDigest(t *testing.T) {
	d := DigestOf([]byte("abc"))
	if want := Digest("sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"); d != want {
		t.Errorf("DigestOf(abc) = %s, want %s", d, want)
	}
	if got, err := ParseDigest(string(d)); err != nil || got != d || len(got.Hex()) != 64 {
		t.Errorf("ParseDigest(%s) = %s, %v", d, got, err)
	}
	for _, s := range []string{"", "sha256:", "sha512:" + d.Hex(), "sha256:" + strings.ToUpper(d.Hex()), "sha256:" + d.Hex()[:62] + "..", string(d) + "0"} {
		if _, err := ParseDigest(s); err == nil {
			t.Errorf("ParseDigest(%q) succeeded", s)
		}
	}
}

func TestParseRef(t *testing.T) {
	tests := map[string]string{
		"web": "web:default", "Web:V1": "web:v1", "team/web": "team/web:default", "a.b-c_d:_x": "a.b-c_d:_x",
	}
	for in, want := range tests {
		if got, err := ParseRef(in); err != nil || got.String() != want {
			t.Errorf("ParseRef(%q) = %s, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", ":", "a:", "-a", "a/b/c", "../x", "a b", "a:" + strings.Repeat("x", 129), strings.Repeat("x", 65), "a\n", "/a", "a/"} {
		if got, err := ParseRef(in); err == nil {
			t.Errorf("ParseRef(%q) = %s, want an error", in, got)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	f.Add("team/web:v1")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRef(s)
		if err != nil {
			return
		}
		again, err := ParseRef(r.String())
		if err != nil || again != r {
			t.Errorf("ParseRef(%q) = %+v, which reads back as %+v, %v", s, r, again, err)
		}
	})
}

func TestMoves(t *testing.T) {
	for _, s := range []BuildStatus{BuildSuccess, BuildFailed, BuildCancelled} {
		if !s.Terminal() {
			t.Errorf("%s has a way out", s)
		}
	}
	if BuildPending.CanMove(BuildSuccess) || !BuildRunning.CanMove(BuildPending) || BuildCancelled.CanMove(BuildSuccess) {
		t.Error("the table of moves does not say what the docs say")
	}
	for from, tos := range SandboxMoves {
		for _, to := range tos {
			if from == to {
				t.Errorf("%s moves to itself", from)
			}
		}
	}
	if SandboxKilled.Live() || SandboxFailed.Live() || !SandboxPaused.Live() {
		t.Error("Live() does not tell ends from the rest")
	}
}
