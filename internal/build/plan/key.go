package plan

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"slices"
	"strings"

	"github.com/lehr-dev/lehr/internal/lehr"
)

// keyVersion begins every chain of cache keys. Change it when a step of the
// same meaning comes to do something else.
const keyVersion = "lehr plan 1"

// WithBase returns the plan with the cache keys that follow from the base's
// image. The plan is otherwise the same.
func (p Plan) WithBase(base lehr.Digest) Plan {
	p.BaseDigest = base
	p.Steps = slices.Clone(p.Steps)
	k := newKey("base")
	k.text(keyVersion, string(base))
	last := k.sum()
	for i := range p.Steps {
		if own := p.Steps[i].Meaning; own != "" {
			k := newKey("step")
			k.text(string(last), string(own))
			last = k.sum()
		}
		p.Steps[i].CacheKey = last
	}
	p.VersionKey = p.versionKey(last)
	return p
}

// versionKey covers what decides the finished version beside its files. The
// boundary is in it: the same steps before or after flattening leave different
// versions.
func (p Plan) versionKey(files lehr.Digest) lehr.Digest {
	k := newKey("version")
	k.text(string(files))
	k.number(int64(len(p.actingAfter())))
	k.config(p.Config)
	if h := p.Healthcheck; h != nil {
		k.text("healthcheck", h.User, h.Workdir)
		k.list(h.Argv)
		k.vars(h.Env)
		k.number(int64(h.Interval), int64(h.Timeout), int64(h.StartPeriod), int64(h.Retries))
	}
	return k.sum()
}

func (p Plan) actingAfter() []Step {
	var acting []Step
	for _, s := range p.After() {
		if s.Acts() {
			acting = append(acting, s)
		}
	}
	return acting
}

// meaning digests all that decides what an acting step does, and nothing else:
// not its text, lines or time limit, and the environment without its order.
func meaning(s Step) lehr.Digest {
	switch s.Kind {
	case KindWorkdir:
		k := newKey("workdir")
		k.text(s.MakeDir, s.User)
		return k.sum()
	case KindUser:
		k := newKey("user")
		k.list(s.Argv[len(s.Argv)-2:]) // name and group; keyVersion stands for the script
		return k.sum()
	}
	k := newKey(string(s.Kind))
	k.list(s.Argv)
	if s.File != nil {
		k.text("file", s.File.Path, s.File.Data)
		k.number(int64(s.File.Mode))
	}
	env := slices.Clone(s.Env)
	slices.SortFunc(env, func(a, b lehr.EnvVar) int { return strings.Compare(a.Name, b.Name) })
	k.vars(env)
	k.text(s.User, s.Workdir)
	return k.sum()
}

// key digests fields. Each is preceded by its length and each list by its
// count, so that no two different sequences are the same bytes.
type key struct{ h hash.Hash }

// newKey begins a key of a kind, which keeps kinds apart.
func newKey(kind string) key {
	k := key{h: sha256.New()}
	k.text(kind)
	return k
}

func (k key) number(ns ...int64) {
	for _, n := range ns {
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], uint64(n))
		k.h.Write(b[:])
	}
}

func (k key) text(fields ...string) {
	for _, f := range fields {
		k.number(int64(len(f)))
		k.h.Write([]byte(f))
	}
}

func (k key) list(fields []string) {
	k.number(int64(len(fields)))
	k.text(fields...)
}

func (k key) vars(vars []lehr.EnvVar) {
	k.number(int64(len(vars)))
	for _, v := range vars {
		k.text(v.Name, v.Value)
	}
}

func (k key) config(c lehr.ImageConfig) {
	k.vars(c.Env)
	k.text(c.User, c.Workdir)
	k.list(c.Entrypoint)
	k.list(c.Cmd)
	k.list(c.Shell)
	k.vars(c.Labels)
	k.list(c.Exposed)
	k.number(int64(map[bool]int{true: 1}[c.Debian]))
}

func (k key) sum() lehr.Digest { return lehr.DigestFrom(k.h) }
