package jsonwire

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
)

// contract holds the field names that scripts rely on, in order.
var contract = map[string]struct {
	message proto.Message
	fields  string
}{
	"build": {&lehrv1.Build{}, "id name tag status attempt base_template base_digest recipe healthcheck vcpus memory_mb disk_mb " +
		"skip_pre_post team_id template_id host_id sandbox_id current_step total_steps created_at started_at completed_at error steps artifact metadata base_image"},
	"error":    {&lehrv1.BuildError{}, "code message remedy fault phase step"},
	"step":     {&lehrv1.BuildStep{}, "step phase cmd status exit ok elapsed_ms cached cache_reason stdout_tail stderr_tail"},
	"artifact": {&lehrv1.BuildArtifact{}, "type image_digest snapshot_digest size_bytes version"},
	"log line": {&lehrv1.LogLine{}, "seq attempt time phase step stream text"},
	"template": {&lehrv1.Template{}, "id name tags type version base_template vcpus memory_mb size_bytes team_id created_at labels exposed base_digest image_digest snapshot_digest build_id disk_mb"},
	"sandbox":  {&lehrv1.Sandbox{}, "id template version state reason vcpus memory_mb disk_mb created_at expires_at host_id url metadata domain access_token ended_at error port_url"},
	"key":      {&lehrv1.CreatedKey{}, "id name key"},
}

func TestEveryContractFieldIsPresentInAnEmptyMessage(t *testing.T) {
	for name, c := range contract {
		b, err := Marshal(c.message)
		if err != nil {
			t.Fatalf("Marshal(%s): %v", name, err)
		}
		if got := strings.Join(keysInOrder(t, b), " "); got != c.fields {
			t.Errorf("fields of %s = %q, want %q", name, got, c.fields)
		}
	}
}

func keysInOrder(t *testing.T, b []byte) []string {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(string(b)))
	if _, err := dec.Token(); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, tok.(string))
		var skip json.RawMessage
		if err := dec.Decode(&skip); err != nil {
			t.Fatal(err)
		}
	}
	return keys
}

func TestValues(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678000, time.FixedZone("x", 3600))
	m := &lehrv1.LogLine{Seq: 1 << 60, Time: timestamppb.New(at), Text: "a<b>\n\"ü\""}
	b, err := Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"seq":1152921504606846976,"attempt":0,"time":"2026-01-02T02:04:05.000678Z","phase":"","step":0,"stream":"","text":"a<b>\n\"ü\""}`
	if string(b) != want {
		t.Errorf("Marshal = %s, want %s", b, want)
	}
}

func TestNullsListsAndMaps(t *testing.T) {
	b, err := Marshal(&lehrv1.CreateBuildRequest{BuildArgs: map[string]string{"b": "2", "a": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"vcpus":null`, `"recipe":[]`, `"build_args":{"a":"1","b":"2"}`, `"limits":null`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("Marshal = %s, want %s in it", b, want)
		}
	}
}

func TestUnmarshalNamesTheUnknownField(t *testing.T) {
	err := Unmarshal([]byte(`{"name":"x","nonsense":1}`), &lehrv1.CreateBuildRequest{})
	if err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("Unmarshal = %v, want an error naming the field", err)
	}
}

func TestMarshalListIsABareArray(t *testing.T) {
	b, err := MarshalList([]*lehrv1.Template(nil))
	if err != nil || string(b) != "[]" {
		t.Errorf("MarshalList(nil) = %s, %v, want []", b, err)
	}
}
