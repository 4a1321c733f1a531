package jsonwire_test

import (
	"encoding/json"
	"testing"

	"google.golang.org/protobuf/proto"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/api/jsonwire"
)

// FuzzUnmarshal reads any text as a request. What is taken comes back the same
// by way of its own JSON.
func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(`{"name":"a","recipe":["RUN true"],"limits":{"run":"5m"},"build_args":{"A":"b"}}`))
	f.Add([]byte(`{"name":"a","name":"b"}`))
	f.Add([]byte(`{"recipe":[[[[[[[`))
	f.Add([]byte(`{"vcpus":1e400}`))
	f.Add([]byte(`{"env":{"A":"\ud800"}}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range []proto.Message{&lehrv1.CreateBuildRequest{}, &lehrv1.CreateSandboxRequest{}, &lehrv1.Build{}, &lehrv1.LogLine{}, &lehrv1.CreateKeyRequest{}} {
			if jsonwire.Unmarshal(b, m) != nil {
				continue
			}
			out, err := jsonwire.Marshal(m)
			if err != nil || !json.Valid(out) {
				t.Errorf("Marshal = %q, %v", out, err)
				continue
			}
			again := m.ProtoReflect().New().Interface()
			if err := jsonwire.Unmarshal(out, again); err != nil || !proto.Equal(m, again) {
				t.Errorf("%T: %q comes back as %v, %v", m, out, again, err)
			}
		}
	})
}
