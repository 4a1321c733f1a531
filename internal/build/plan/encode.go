package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/recipe"
)

// maxEnvBytes bounds the different environments of one plan together. Only a
// recipe that alternates thousands of ENV and RUN gets there.
const maxEnvBytes = 16 << 20

// envMeter counts the bytes of the environments that steps keep. An environment
// that did not change since the last step is the same slice and counts once.
type envMeter struct {
	last  recipe.Vars
	bytes int
}

func (e *envMeter) count(env recipe.Vars) {
	if len(env) == 0 || len(e.last) == len(env) && &e.last[0] == &env[0] {
		return
	}
	for _, v := range env {
		e.bytes += len(v.Name) + len(v.Value) + 32 // headers of the two strings
	}
	e.last = env
}

// encodedPlan is the stored form. Environments are in a table of their own,
// because most steps have that of the step before.
type encodedPlan struct {
	Schema       int              `json:"schema"`
	BaseDigest   lehr.Digest      `json:"base_digest,omitempty"`
	VersionKey   lehr.Digest      `json:"version_key"`
	Boundary     int              `json:"boundary"`
	EndProcesses bool             `json:"end_processes,omitempty"`
	Steps        []encodedStep    `json:"steps"`
	Envs         [][]lehr.EnvVar  `json:"envs"`
	Healthcheck  *Healthcheck     `json:"healthcheck,omitempty"`
	Config       lehr.ImageConfig `json:"config"`
	Warnings     []recipe.Warning `json:"warnings,omitempty"`
}

type encodedStep struct {
	N        int           `json:"n"`
	Phase    lehr.Phase    `json:"phase"`
	Kind     Kind          `json:"kind"`
	Cmd      string        `json:"cmd"`
	Skip     string        `json:"skip,omitempty"`
	Line     int           `json:"line,omitempty"`
	EndLine  int           `json:"end_line,omitempty"`
	Implicit bool          `json:"implicit,omitempty"`
	Argv     []string      `json:"argv,omitempty"`
	File     *recipe.File  `json:"file,omitempty"`
	Env      *int          `json:"env,omitempty"` // index in envs
	User     string        `json:"user,omitempty"`
	Workdir  string        `json:"workdir,omitempty"`
	MakeDir  string        `json:"make_dir,omitempty"`
	Timeout  time.Duration `json:"timeout_ns,omitempty"`
	Meaning  lehr.Digest   `json:"meaning,omitempty"`
	CacheKey lehr.Digest   `json:"cache_key"`
}

// Encode returns the stored form of the plan, JSON with a schema version. Equal
// plans have equal encodings. Proxies are left out: they may hold passwords.
func Encode(p Plan) ([]byte, error) {
	e := encodedPlan{
		Schema: SchemaVersion, BaseDigest: p.BaseDigest, VersionKey: p.VersionKey,
		Boundary: p.Boundary, EndProcesses: p.EndProcesses, Healthcheck: p.Healthcheck,
		Config: p.Config, Warnings: p.Warnings,
		Steps: make([]encodedStep, 0, len(p.Steps)),
	}
	table := envTable{}
	for _, s := range p.Steps {
		out := encodedStep{
			N: s.N, Phase: s.Phase, Kind: s.Kind, Cmd: s.Cmd, Skip: s.Skip, Line: s.Line, EndLine: s.EndLine,
			Implicit: s.Implicit, Argv: s.Argv, File: s.File, User: s.User, Workdir: s.Workdir,
			MakeDir: s.MakeDir, Timeout: s.Timeout, Meaning: s.Meaning, CacheKey: s.CacheKey,
		}
		if len(s.Env) > 0 {
			out.Env = table.index(s.Env)
		}
		e.Steps = append(e.Steps, out)
	}
	e.Envs = table.envs
	b, err := json.Marshal(e)
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, "plan.Encode", "the plan cannot be encoded")
	}
	return b, nil
}

// envTable collects environments. Steps that share one share its memory, so the
// address of its first variable tells them apart.
type envTable struct {
	envs  [][]lehr.EnvVar
	known map[*lehr.EnvVar]int
}

// index returns the index of env in the table, adding it when it is new.
func (t *envTable) index(env []lehr.EnvVar) *int {
	i, ok := t.known[&env[0]]
	if !ok {
		if t.known == nil {
			t.known = map[*lehr.EnvVar]int{}
		}
		i = len(t.envs)
		t.known[&env[0]] = i
		t.envs = append(t.envs, env)
	}
	return &i
}

// Decode reads what Encode wrote. Errors: Unsupported for another schema
// version, Corrupt for what is no plan.
func Decode(b []byte) (Plan, error) {
	var e encodedPlan
	if err := json.Unmarshal(b, &e); err != nil {
		return Plan{}, errs.Wrap(err, errs.Corrupt, "plan.Decode", "the stored plan cannot be read").WithCode("plan_corrupt")
	}
	if e.Schema != SchemaVersion {
		return Plan{}, errs.New(errs.Unsupported, "the stored plan has schema version %d, this is %d", e.Schema, SchemaVersion).
			WithCode("plan_schema").WithRemedy("build the template again from its recipe")
	}
	p := Plan{
		BaseDigest: e.BaseDigest, VersionKey: e.VersionKey, Boundary: e.Boundary,
		EndProcesses: e.EndProcesses, Healthcheck: e.Healthcheck, Config: e.Config, Warnings: e.Warnings,
	}
	for i, in := range e.Steps {
		s, err := in.step(i, e.Envs)
		if err != nil {
			return Plan{}, err
		}
		p.Steps = append(p.Steps, s)
	}
	if p.Boundary < 0 || p.Boundary > len(p.Steps) {
		return Plan{}, corrupt("its boundary %d is outside its %d steps", p.Boundary, len(p.Steps))
	}
	return p, nil
}

// step is the step at index i of the plan.
func (in encodedStep) step(i int, envs [][]lehr.EnvVar) (Step, error) {
	s := Step{
		N: in.N, Phase: in.Phase, Kind: in.Kind, Cmd: in.Cmd, Skip: in.Skip, Line: in.Line, EndLine: in.EndLine,
		Implicit: in.Implicit, Argv: in.Argv, File: in.File, User: in.User, Workdir: in.Workdir,
		MakeDir: in.MakeDir, Timeout: in.Timeout, Meaning: in.Meaning, CacheKey: in.CacheKey,
	}
	if in.N != i+1 {
		return Step{}, corrupt("step %d has number %d", i+1, in.N)
	}
	if in.Env == nil {
		return s, nil
	}
	if *in.Env < 0 || *in.Env >= len(envs) {
		return Step{}, corrupt("step %d has no environment", in.N)
	}
	s.Env = envs[*in.Env]
	return s, nil
}

func corrupt(format string, args ...any) error {
	return errs.New(errs.Corrupt, "the stored plan is damaged: %s", fmt.Sprintf(format, args...)).WithCode("plan_corrupt")
}

// execForm writes argv as a recipe would.
func execForm(argv []string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(argv); err != nil { // strings always encode
		return fmt.Sprint(argv)
	}
	return string(bytes.TrimSpace(b.Bytes()))
}
