package agent

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/guestclient"
	"github.com/lehr-dev/lehr/internal/host"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// guest is the guest daemon's client as a host needs it.
type guest struct{ client *guestclient.Client }

var _ host.Guest = guest{}

// connect returns a client of the daemon at a.
func connect(a host.GuestAddress) host.Guest {
	dial := func(ctx context.Context, _, addr string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, errs.New(errs.Internal, "%w", err)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil, errs.New(errs.Internal, "%w", err)
		}
		return a.Dial(ctx, uint16(n))
	}
	return guest{client: guestclient.New(dial, a.Secret)}
}

// Close lets the kept connections go.
func (g guest) Close() error {
	g.client.Close()
	return nil
}

// Health returns the daemon's version once it answers.
func (g guest) Health(ctx context.Context) (string, error) {
	h, err := g.client.Health(ctx)
	return h.Version, err
}

// Init says whom the daemon serves.
func (g guest) Init(ctx context.Context, id host.Identity) error {
	return g.client.Init(ctx, guestclient.InitRequest{
		AccessToken: id.AccessToken, EnvVars: envMap(id.Env), DefaultUser: id.User, DefaultWorkdir: id.Workdir, SandboxID: string(id.SandboxID),
		Hostname: id.Hostname, ResolvConf: id.ResolvConf, Hosts: id.Hosts,
	})
}

// Quiesce ends every process but the daemon and writes out all caches.
func (g guest) Quiesce(ctx context.Context) error {
	if err := g.client.EndProcesses(ctx); err != nil {
		return err
	}
	return g.client.Sync(ctx)
}

// Exec runs one command.
func (g guest) Exec(ctx context.Context, r agent.Exec, out agent.Output) (agent.Exit, error) {
	request := guestclient.ExecRequest{
		Cmd: r.Args, Env: envMap(r.Env), CleanEnv: r.CleanEnv, Cwd: r.Workdir, User: r.User,
		Timeout: r.Timeout, Linger: r.Linger,
	}
	if r.Stdin != nil {
		request.Stdin = bytes.NewReader(r.Stdin)
	}
	exit, err := g.client.Exec(ctx, request, guestclient.Output(out))
	return agent.Exit{Code: exit.Code, Signal: exit.Signal, TimedOut: exit.TimedOut}, err
}

// Environment returns the default environment, by name.
func (g guest) Environment(ctx context.Context, _ lehr.SandboxID) ([]lehr.EnvVar, error) {
	env, err := g.client.Env(ctx)
	if err != nil {
		return nil, err
	}
	vars := make([]lehr.EnvVar, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		vars = append(vars, lehr.EnvVar{Name: name, Value: env[name]})
	}
	return vars, nil
}

// ReadFile streams a file to w.
func (g guest) ReadFile(ctx context.Context, f agent.File, w io.Writer) error {
	return g.client.ReadFile(ctx, file(f), w)
}

// WriteFile creates or replaces a file.
func (g guest) WriteFile(ctx context.Context, f agent.File, r io.Reader) error {
	return g.client.WriteFile(ctx, file(f), r)
}

// MakeDir makes a directory.
func (g guest) MakeDir(ctx context.Context, f agent.File) error {
	return g.client.MakeDir(ctx, file(f))
}

func file(f agent.File) guestclient.File { return guestclient.File{Path: f.Path, User: f.User} }

// envMap drops the order, which a sandbox's environment does not have; of a
// name that stands twice the last value wins.
func envMap(vars []lehr.EnvVar) map[string]string {
	m := make(map[string]string, len(vars))
	for _, v := range vars {
		m[v.Name] = v.Value
	}
	return m
}
