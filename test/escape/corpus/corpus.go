// Package corpus is the list of ways out of a sandbox that are tried, with the
// code that tries them. The code runs inside (test/escape/probe); whether
// something got out is asserted from outside (test/e2e).
package corpus

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Want is what an attempt must come to.
type Want string

// What attempts come to.
const (
	// Refused: every way of it is answered with an error.
	Refused Want = "refused"
	// Contained: it may succeed, for it reaches nothing but the sandbox itself;
	// what is outside is looked at from there.
	Contained Want = "contained"
	// Breached: something of the outside was reached. No attempt wants it.
	Breached Want = "breached"
	// Reached: the attempt is a control, which must come through, or silence of
	// the others would prove nothing.
	Reached Want = "reached"
)

// Attempt is one way that is tried.
type Attempt struct {
	ID   string // area and number
	What string // what is to be reached
	How  string
	Want Want
	// Alone says that the attempt may end its sandbox, so it gets one of its own.
	Alone bool
	// Bites says that outside, as root, the same code must come to Breached.
	Bites bool
	// Listens names the listener, of Env.Listeners, that must see nothing of it
	// from inside and something of it from outside. Empty: none.
	Listens string
	try     func(Env) (Want, string)
}

// Env is what the attempts know of the outside, as JSON. A sandbox does not know
// it; the attempts are given the best of chances.
type Env struct {
	Canary    string   `json:"canary"`     // path of a file of the host
	Secret    string   `json:"secret"`     // what is in it
	Socket    string   `json:"socket"`     // path of a listening socket of the host
	Abstract  string   `json:"abstract"`   // abstract name of another
	Memory    int      `json:"memory"`     // key of a shared memory segment of the host
	PID       int      `json:"pid"`        // of a process of the host
	Host      string   `json:"host"`       // address of the host on its uplink
	Other     string   `json:"other"`      // address of the host on another device
	APIPort   int      `json:"api_port"`   // of the control plane
	Port      int      `json:"port"`       // where the outside's and the host's listeners are
	Siblings  []string `json:"siblings"`   // addresses by which the host knows sandboxes
	Public    string   `json:"public"`     // an address that may be reached
	GuestPort int      `json:"guest_port"` // of the guest daemon
}

// Report is what an attempt came to, as one line of JSON.
type Report struct {
	ID     string `json:"id"`
	Got    Want   `json:"got"`
	Detail string `json:"detail"`
}

// All returns every attempt. Their ids are unique.
func All() []Attempt {
	var all []Attempt
	for _, area := range [][]Attempt{
		files(), devices(), mounts(), settings(), tracing(), namespaces(), calls(), clocks(), sockets(), daemon(),
		metadata(), ranges(), hosts(), siblings(), packets(), names(),
	} {
		all = append(all, area...)
	}
	return all
}

// Run tries one attempt.
func Run(id string, env Env) (Report, error) {
	for _, a := range All() {
		if a.ID == id {
			got, detail := a.try(env)
			return Report{ID: id, Got: got, Detail: detail}, nil
		}
	}
	return Report{}, fmt.Errorf("no attempt has the id %q", id)
}

// number gives the attempts of an area their ids.
func number(area string, list []Attempt) []Attempt {
	for i := range list {
		list[i].ID = fmt.Sprintf("%s-%02d", area, i+1)
	}
	return list
}

// call is an attempt that is refused where it returns an error.
func call(f func(Env) error) func(Env) (Want, string) {
	return func(env Env) (Want, string) {
		if err := f(env); err != nil {
			return Refused, err.Error()
		}
		return Contained, "it succeeded"
	}
}

// every is an attempt that is refused where each of its ways is.
func every(ways ...func(Env) error) func(Env) (Want, string) {
	return func(env Env) (Want, string) {
		var details []string
		got := Refused
		for i, way := range ways {
			err := way(env)
			if err == nil {
				got = Contained
				err = errors.New("it succeeded")
			}
			details = append(details, fmt.Sprintf("%d: %v", i+1, err))
		}
		return got, strings.Join(details, "; ")
	}
}

// look is an attempt that is breached where what it reads holds the secret.
func look(f func(Env) (string, error)) func(Env) (Want, string) {
	return func(env Env) (Want, string) {
		text, err := f(env)
		switch {
		case env.Secret != "" && strings.Contains(text, env.Secret):
			return Breached, "it shows the secret of the host"
		case err != nil:
			return Refused, err.Error()
		}
		return Contained, fmt.Sprintf("%d bytes, nothing of the host", len(text))
	}
}

// patience is how long an attempt waits for an answer that must not come.
const patience = 700 * time.Millisecond
