package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"google.golang.org/protobuf/proto"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/api/jsonwire"
)

// rawJSON is the display of RawJSON: one object a line, with "event" and, under
// the same name, what it is about. Field names of build, step and log are the
// API's.
//
//	{"event":"build","build":{…}}     first, and whenever its status or attempt changes; without steps
//	{"event":"step","step":{…}}       whenever a step's status changes
//	{"event":"log","log":{…}}         a line of the log
//	{"event":"note","note":"…"}       what the command itself has to say
//	{"event":"error","error":{…}}     code, message, remedy, and fault where a build failed
type rawJSON struct {
	out io.Writer

	mu     sync.Mutex
	status string           // last written
	seen   map[int32]string // status of each step last written
}

func (r *rawJSON) Line(l *lehrv1.LogLine) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.message("log", l)
}

func (r *rawJSON) State(b *lehrv1.Build) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range b.GetSteps() {
		status := fmt.Sprint(b.GetAttempt(), s.GetStatus())
		if r.seen[s.GetStep()] != status {
			r.seen[s.GetStep()] = status
			_ = r.message("step", s) // an output that is gone is found at the next line
		}
	}
	if status := fmt.Sprint(b.GetAttempt(), b.GetStatus()); status != r.status {
		r.status = status
		bare := proto.CloneOf(b)
		bare.Steps = nil
		_ = r.message("build", bare)
	}
}

func (r *rawJSON) States() bool           { return true }
func (r *rawJSON) Note(text string)       { r.value("note", text) }
func (r *rawJSON) Cancelling(text string) { r.value("note", text) }
func (r *rawJSON) Close()                 {}

func (r *rawJSON) Failed(f Failure) {
	e := map[string]any{"code": f.Code, "message": f.Message, "remedy": nil, "fault": nil}
	if f.Remedy != "" {
		e["remedy"] = f.Remedy
	}
	if f.Fault != "" {
		e["fault"] = f.Fault
	}
	r.value("error", e)
}

// message is called with mu held.
func (r *rawJSON) message(event string, m proto.Message) error {
	b, err := jsonwire.Marshal(m)
	if err == nil {
		_, err = fmt.Fprintf(r.out, "{\"event\":%q,%q:%s}\n", event, event, b)
	}
	return err
}

func (r *rawJSON) value(event string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		return // strings always can be
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, "{\"event\":%q,%q:%s}\n", event, event, b)
}
