package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/api"
	"github.com/lehr-dev/lehr/internal/bus/membus"
	"github.com/lehr-dev/lehr/internal/fleet"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/role/control"
	"github.com/lehr-dev/lehr/internal/store"
	"github.com/lehr-dev/lehr/internal/store/sqlstore/lite"
)

// model is what the API must answer, kept by hand. Time stands still between
// its operations; it moves in whole tens of seconds, and every time-to-live
// ends five seconds off, so that nothing is left to chance.
type model struct {
	t       *testing.T
	rng     *rand.Rand
	handler http.Handler
	key     string
	admin   string

	boxes  []*modelBox       // oldest first
	keys   map[string]string // idempotency key → sandbox
	tags   map[string]string // "name:tag" → version
	limit  int               // of live sandboxes
	rate   int64             // of creates in a minute
	paid   time.Time
	counts map[string]int // operations by name
}

type modelBox struct {
	id, template string
	metadata     map[string]string
	expires      time.Time
	reason       string // of its end; empty while it lives
}

func TestAPIEqualsAModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { newModel(t, seed).play(400) })
		})
	}
}

// newModel starts a control plane in the test's bubble, with templates one, two
// and two:old.
func newModel(t *testing.T, seed uint64) *model {
	t.Helper()
	st, err := lite.Open(context.Background(), lite.Options{Path: lite.Memory})
	if err != nil {
		t.Fatal(err)
	}
	signals := membus.New()
	host := agenttest.NewHost()
	host.Capacity = lehr.Resources{VCPUs: 64, MemoryMB: 1 << 20, DiskMB: 1 << 24}
	c := control.New(control.Options{
		Store: st, Bus: signals, Workers: 1, Embedded: true, HostNames: []string{"lehr.test"}, Log: slog.New(slog.DiscardHandler),
		Hosts: []fleet.Member{{Name: "scripted", Dial: func(context.Context) (agent.Agent, error) { return host, nil }}},
	})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v", err)
		}
		_, _ = signals.Close(), st.Close()
	})
	synctest.Wait()
	m := &model{
		t: t, rng: rand.New(rand.NewPCG(seed, 7)), handler: c.Handler(),
		keys: map[string]string{}, tags: map[string]string{}, counts: map[string]int{},
	}
	m.key, m.admin = m.newKey(st, "users", false), m.newKey(st, "admins", true)
	for i, ref := range []string{"one:default", "two:old", "two:default"} {
		name, tag, _ := strings.Cut(ref, ":")
		v := lehr.Version{
			ID: lehr.NewVersionID(), TeamID: m.team(st), Type: lehr.TypeBase, Platform: "linux/amd64",
			ImageDigest: lehr.DigestOf([]byte(ref)), Resources: lehr.DefaultResources,
			Config: lehr.ImageConfig{Labels: []lehr.EnvVar{{Name: "n", Value: fmt.Sprint(i % 2)}}},
		}
		host.AddArtifact(v.ImageDigest)
		if _, err := st.Templates().PutVersion(t.Context(), name, tag, v); err != nil {
			t.Fatal(err)
		}
		m.tags[ref] = string(v.ID)
	}
	return m
}

func (m *model) team(st store.Store) lehr.TeamID {
	m.t.Helper()
	team, err := st.Accounts().EnsureTeam(m.t.Context(), "users")
	if err != nil {
		m.t.Fatal(err)
	}
	return team.ID
}

func (m *model) newKey(st store.Store, team string, admin bool) string {
	m.t.Helper()
	owner, err := st.Accounts().EnsureTeam(m.t.Context(), team)
	if err != nil {
		m.t.Fatal(err)
	}
	k, secret := api.NewKey(owner.ID, "model", admin, time.Now())
	hash, _ := api.HashKey(secret)
	if err := st.Accounts().CreateKey(m.t.Context(), k, hash); err != nil {
		m.t.Fatal(err)
	}
	return secret
}

// call makes a request and returns status, headers and the answer.
func (m *model) call(key, method, path string, body object, headers ...string) (int, http.Header, object) {
	m.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		m.t.Fatal(err)
	}
	if body == nil {
		text = nil
	}
	r := httptest.NewRequest(method, "http://lehr.test"+path, strings.NewReader(string(text)))
	r.Header.Set("X-API-Key", key)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	m.handler.ServeHTTP(w, r)
	var got object
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		m.t.Fatalf("%s %s = %d %s: %v", method, path, w.Code, w.Body, err)
	}
	return w.Code, w.Header(), got
}

// want checks a status, and the code where it is an error's.
func (m *model) want(what string, status int, got object, wantStatus int, code string) {
	m.t.Helper()
	has := ""
	if e, ok := got["error"].(map[string]any); ok && status >= 400 {
		has, _ = e["code"].(string)
	}
	if status != wantStatus || has != code {
		m.t.Fatalf("%s = %d %v, want %d %s", what, status, got, wantStatus, code)
	}
}

func (m *model) play(steps int) {
	operations := []struct {
		name   string
		weight int
		run    func()
	}{
		{"create", 8, m.create},
		{"kill", 3, m.kill},
		{"timeout", 3, m.setTimeout},
		{"list", 6, m.list},
		{"templates", 2, m.listTemplates},
		{"tag", 2, m.tag},
		{"limits", 1, m.setLimits},
		{"usage", 2, m.usage},
		{"time", 3, m.passTime},
	}
	var bag []int
	for i, o := range operations {
		bag = append(bag, slices.Repeat([]int{i}, o.weight)...)
	}
	for range steps {
		o := operations[bag[m.rng.IntN(len(bag))]]
		m.counts[o.name]++
		o.run()
	}
	for _, o := range operations {
		if m.counts[o.name] == 0 {
			m.t.Errorf("%s was never played", o.name)
		}
	}
}

func (m *model) passTime() {
	time.Sleep(time.Duration(1+m.rng.IntN(3)) * 10 * time.Second)
	synctest.Wait()
	for _, b := range m.boxes {
		if b.reason == "" && !b.expires.IsZero() && b.expires.Before(time.Now()) {
			b.reason = "ttl"
		}
	}
}

func (m *model) live() []*modelBox {
	var live []*modelBox
	for _, b := range m.boxes {
		if b.reason == "" {
			live = append(live, b)
		}
	}
	return live
}

// metadata is a few entries of few names and values, so that filters meet some.
func (m *model) metadata() map[string]string {
	entries := map[string]string{}
	for range m.rng.IntN(4) {
		entries[string(rune('a'+m.rng.IntN(3)))] = []string{"", "1", "x=y & z", "ä\n"}[m.rng.IntN(4)]
	}
	return entries
}

func (m *model) reference() string {
	return slices.Sorted(maps.Keys(m.tags))[m.rng.IntN(len(m.tags))]
}

// timeout is a time-to-live that ends between two moments of the test.
func (m *model) timeout() (string, time.Time) {
	n := m.rng.IntN(4)
	if n == 0 {
		return "0", time.Time{}
	}
	ttl := time.Duration(10*n+5) * time.Second
	return ttl.String(), time.Now().Add(ttl)
}

// pay is the token bucket of creates, as the documentation tells it.
func (m *model) pay() bool {
	if m.rate == 0 {
		return true
	}
	from := m.paid
	if now := time.Now(); from.Before(now) {
		from = now
	}
	next := from.Add(time.Duration(60_000_000/m.rate) * time.Microsecond)
	if time.Until(next) > time.Minute {
		return false
	}
	m.paid = next
	return true
}

func (m *model) create() {
	b := &modelBox{template: m.reference(), metadata: m.metadata()}
	timeout, expires := m.timeout()
	b.expires = expires
	var headers []string
	key := ""
	if m.rng.IntN(3) == 0 {
		key = fmt.Sprintf("%s|%v|%s|%d", b.template, b.metadata, timeout, m.rng.IntN(2))
		key = url.QueryEscape(key)
		headers = []string{"Idempotency-Key", key}
	}
	body := object{"template": b.template, "metadata": b.metadata, "timeout": timeout}
	status, header, got := m.call(m.key, "POST", "/v1/sandboxes", body, headers...)
	if id := m.keys[key]; key != "" && id != "" {
		m.want("a repeated create", status, got, 200, "")
		if got["id"] != id || header.Get("Lehr-Replayed") == "" {
			m.t.Fatalf("a repeated create = %v, want %s, marked", got, id)
		}
		return
	}
	switch {
	case m.limit > 0 && len(m.live()) >= m.limit:
		m.want("a create at the limit", status, got, 429, "limit_sandboxes")
	case !m.pay():
		m.want("a create too many in a minute", status, got, 429, "limit_creates_per_minute")
	default:
		m.want("create", status, got, 201, "")
		b.id, _ = got["id"].(string)
		m.boxes = append(m.boxes, b)
		if key != "" {
			m.keys[key] = b.id
		}
		return
	}
	if header.Get("Retry-After") < "1" {
		m.t.Fatalf("Retry-After = %q, want seconds", header.Get("Retry-After"))
	}
}

// any returns one of the sandboxes, or nil.
func (m *model) any() *modelBox {
	if len(m.boxes) == 0 {
		return nil
	}
	return m.boxes[m.rng.IntN(len(m.boxes))]
}

func (m *model) kill() {
	b := m.any()
	if b == nil {
		return
	}
	if b.reason == "" {
		b.reason = "user"
	}
	status, _, got := m.call(m.key, "DELETE", "/v1/sandboxes/"+b.id, nil)
	m.want("kill", status, got, 200, "")
	if got["reason"] != b.reason {
		m.t.Fatalf("kill = %v, want reason %s", got, b.reason)
	}
}

func (m *model) setTimeout() {
	b := m.any()
	if b == nil {
		return
	}
	timeout, expires := m.timeout()
	status, _, got := m.call(m.key, "POST", "/v1/sandboxes/"+b.id+"/timeout", object{"timeout": timeout})
	if b.reason != "" {
		m.want("a timeout of an ended sandbox", status, got, 409, "sandbox_ended")
		return
	}
	m.want("timeout", status, got, 200, "")
	b.expires = expires
	if (got["expires_at"] == nil) != expires.IsZero() {
		m.t.Fatalf("timeout %s = %v", timeout, got["expires_at"])
	}
}

// list compares the pages of a random filter with the model.
func (m *model) list() {
	q := url.Values{}
	all, state, template := m.rng.IntN(2) == 0, "", ""
	if all {
		q.Set("all", "true")
	}
	if m.rng.IntN(4) == 0 {
		state = []string{"running", "killed"}[m.rng.IntN(2)]
		q.Set("state", state)
	}
	if m.rng.IntN(3) == 0 {
		template = m.reference()
		if m.rng.IntN(2) == 0 {
			template, _, _ = strings.Cut(template, ":")
		}
		q.Set("template", template)
	}
	filter := map[string]string{}
	if m.rng.IntN(2) == 0 {
		filter = m.metadata()
	}
	for name, value := range filter {
		q.Add("metadata", name+"="+value)
	}
	want := []string{}
	for _, b := range slices.Backward(m.boxes) {
		isLive := b.reason == ""
		fits := (isLive || all || state == "killed") &&
			(state == "" || (state == "running") == isLive) &&
			(template == "" || b.template == template || strings.HasPrefix(b.template, template+":"))
		for name, value := range filter {
			has, ok := b.metadata[name]
			fits = fits && ok && has == value
		}
		if fits {
			want = append(want, b.id)
		}
	}
	if diff := cmp.Diff(want, m.pages("/v1/sandboxes", "sandboxes", "id", q)); diff != "" {
		m.t.Fatalf("GET /v1/sandboxes?%s differs (-model +API):\n%s", q.Encode(), diff)
	}
}

// pages follows the cursors of a list and returns one field of its elements.
func (m *model) pages(path, list, field string, q url.Values) []string {
	m.t.Helper()
	q.Set("limit", fmt.Sprint(1+m.rng.IntN(7)))
	seen := []string{}
	for range 1000 {
		status, _, got := m.call(m.key, "GET", path+"?"+q.Encode(), nil)
		m.want("GET "+path+"?"+q.Encode(), status, got, 200, "")
		page, _ := got[list].([]any)
		for _, one := range page {
			o, _ := one.(map[string]any)
			value, _ := o[field].(string)
			seen = append(seen, value)
		}
		next, more := got["next_cursor"].(string)
		if !more {
			return seen
		}
		q.Set("cursor", next)
	}
	m.t.Fatalf("GET %s does not end", path)
	return nil
}

func (m *model) listTemplates() {
	versions := map[string]bool{}
	for _, v := range m.tags {
		versions[v] = true
	}
	want := slices.Sorted(maps.Keys(versions))
	slices.Reverse(want)
	got := m.pages("/v1/templates", "templates", "version", url.Values{})
	got = slices.DeleteFunc(got, func(v string) bool { return !versions[v] && strings.HasPrefix(v, "ver-") && m.platform(v) })
	if diff := cmp.Diff(want, got); diff != "" {
		m.t.Fatalf("GET /v1/templates differs (-model +API):\n%s", diff)
	}
}

// platform reports whether a version is the platform's minimal.
func (m *model) platform(version string) bool {
	_, _, got := m.call(m.key, "GET", "/v1/templates/minimal", nil)
	return got["version"] == version
}

func (m *model) tag() {
	from := m.reference()
	name, _, _ := strings.Cut(from, ":")
	to := []string{"a", "b", "default"}[m.rng.IntN(3)]
	status, _, got := m.call(m.key, "POST", "/v1/templates/"+from+"/tag", object{"tag": to})
	m.want("tag", status, got, 200, "")
	m.tags[name+":"+to] = m.tags[from]
	if got["version"] != m.tags[from] {
		m.t.Fatalf("tag %s %s = %v, want version %s", from, to, got, m.tags[from])
	}
}

func (m *model) setLimits() {
	m.limit, m.rate = m.rng.IntN(8), []int64{0, 2, 20}[m.rng.IntN(3)]
	status, _, got := m.call(m.admin, "PUT", "/v1/teams/users/limits", object{"sandboxes": m.limit, "creates_per_minute": m.rate})
	m.want("limits", status, got, 200, "")
	if m.paid.After(time.Now()) {
		m.paid = time.Now() // setting limits forgives what was paid ahead
	}
}

func (m *model) usage() {
	status, _, got := m.call(m.key, "GET", "/v1/team", nil)
	m.want("usage", status, got, 200, "")
	use, _ := got["usage"].(map[string]any)
	n := float64(len(m.live()))
	if use["sandboxes"] != n || use["memory_mb"] != n*float64(lehr.DefaultResources.MemoryMB) {
		m.t.Fatalf("usage = %v, want %v sandboxes", use, n)
	}
}
