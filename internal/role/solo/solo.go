// Package solo is `lehr up`: a control plane on SQLite and the in-process bus,
// supervising one agent as a child process.
package solo

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sync/errgroup"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/bus/membus"
	"github.com/lehr-dev/lehr/internal/config"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/fleet"
	"github.com/lehr-dev/lehr/internal/hostrpc"
	"github.com/lehr-dev/lehr/internal/role/control"
	"github.com/lehr-dev/lehr/internal/seal"
	"github.com/lehr-dev/lehr/internal/store"
	"github.com/lehr-dev/lehr/internal/store/sqlstore/lite"
)

// Options configure one run.
type Options struct {
	Config     config.Up
	ServersDir string   // where the server makes itself known
	AgentArgs  []string // command line of the agent, the program first
	Log        *slog.Logger
	// Ready is called once with the URL when requests are taken.
	Ready func(url string)
}

// Times of a stop; together they stay within the 30 s that are promised.
const (
	drainTime     = 2 * time.Second // requests under way
	agentStopTime = 10 * time.Second
)

// maxHeader bounds the headers of a request, in bytes.
const maxHeader = 256 << 10

// agentStartTime bounds the wait for the agent before calls are taken.
const agentStartTime = 10 * time.Second

// Run works until ctx ends, then stops gracefully: builds are given back,
// sandboxes keep running for the next start. A data folder in use is Conflict.
func Run(ctx context.Context, o Options) error {
	if err := os.MkdirAll(o.Config.Data, 0o700); err != nil {
		return errs.Wrap(err, errs.Unavailable, "solo.Run", "the data folder cannot be made").
			WithRemedy("choose another one with --data")
	}
	unlock, err := lock(o.Config.Data)
	if err != nil {
		return err
	}
	defer unlock()
	st, err := lite.Open(ctx, lite.Options{Path: filepath.Join(o.Config.Data, "lehr.db")})
	if err != nil {
		return err
	}
	defer func() {
		if err := st.Close(); err != nil {
			o.Log.Error("closing the store", "error", err)
		}
	}()
	return serve(ctx, o, st)
}

// lock takes the data folder for this process; the agent does not inherit it.
func lock(data string) (unlock func(), err error) {
	l := flock.New(filepath.Join(data, "lock"))
	ok, err := l.TryLock()
	if err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, "solo.lock", "the data folder cannot be locked")
	}
	if !ok {
		return nil, errs.New(errs.Conflict, "another lehr up works on %s", data).WithCode("data_in_use").
			WithRemedy("stop it, or choose another folder with --data")
	}
	return func() { _ = l.Unlock() }, nil // the process ends right after
}

func serve(ctx context.Context, o Options, st store.Store) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Config.Listen)
	if err != nil {
		return errs.Wrap(err, errs.Unavailable, "solo.serve", "cannot listen on "+o.Config.Listen).
			WithRemedy("is another server running? choose another address with --listen")
	}
	defer listener.Close()
	signals := membus.New()
	defer signals.Close()
	// A name of this life: after kill -9 the agent of the one before may answer
	// for another moment, and must not be taken for ours.
	socket := filepath.Join(o.Config.Data, "run", strconv.Itoa(os.Getpid())+".sock")
	if err := os.RemoveAll(filepath.Dir(socket)); err != nil {
		return errs.Wrap(err, errs.Unavailable, "solo.serve", "old sockets cannot be removed")
	}
	secret, made, err := seal.Load(filepath.Join(o.Config.Data, "secret.key"))
	if err != nil {
		return err
	}
	if made {
		o.Log.Info("a secret key was made; keep a copy with backups of the data folder", "file", "secret.key")
	}
	c := control.New(control.Options{
		Store: st, Bus: signals, Workers: o.Config.Workers, Embedded: true, HostNames: o.Config.HostNames, Log: o.Log,
		CacheBytes: o.Config.CacheMB << 20,
		Key:        secret, Gateway: gatewayAddress(o.Config, listener.Addr()),
		Hosts: []fleet.Member{{Name: "local", Dial: func(context.Context) (agent.Agent, error) {
			return hostrpc.DialUnix(socket), nil
		}}},
	})
	key, err := adminKey(ctx, o.Config.Data, st.Accounts())
	if err != nil {
		return err
	}
	return run(ctx, o, c, listener, announcement{key: key, socket: socket})
}

// gatewayAddress is where callers find sandboxes: behind the proxy that the
// public URL names, else where we listen.
func gatewayAddress(c config.Up, addr net.Addr) control.Gateway {
	g := control.Gateway{Domain: c.Domain, Scheme: "http"}
	if tcp, ok := addr.(*net.TCPAddr); ok {
		g.Port = strconv.Itoa(tcp.Port)
	}
	if c.PublicURL != nil {
		g.Scheme, g.Port = c.PublicURL.Scheme, c.PublicURL.Port()
	}
	if g.Scheme == "http" && g.Port == "80" || g.Scheme == "https" && g.Port == "443" {
		g.Port = ""
	}
	return g
}

// announcement is what run tells: the key of the server's file, and where the
// agent listens.
type announcement struct{ key, socket string }

// run starts the parts and stops them in the order that loses nothing: first
// the workers, which still need the agent, then the agent, then open requests.
func run(ctx context.Context, o Options, c *control.Control, listener net.Listener, a announcement) error {
	agentCtx, stopAgent := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAgent()
	args := append(slices.Clone(o.AgentArgs), "--data", o.Config.Data, "--socket", a.socket, "--log-level", o.Config.LogLevel)
	if o.Config.Registries != "" {
		args = append(args, "--registries", o.Config.Registries)
	}
	sup := &supervisor{args: args, log: o.Log, stopTime: agentStopTime}
	parts, ctx := errgroup.WithContext(ctx)
	var agentDone errgroup.Group
	agentDone.Go(func() error { return sup.run(agentCtx) })
	parts.Go(func() error {
		err := c.Run(ctx)
		stopAgent()
		return errors.Join(err, agentDone.Wait())
	})

	server := &http.Server{
		Handler: c.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, Protocols: protocols(),
		MaxHeaderBytes: maxHeader,
		ErrorLog:       slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
	}
	parts.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	awaitAgent(ctx, c)
	retract := func() {}
	if ctx.Err() == nil {
		retract = announce(o, c, listener.Addr(), a.key)
	}
	parts.Go(func() error {
		<-ctx.Done()
		c.SetReady(false)
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		if server.Shutdown(drain) != nil {
			_ = server.Close() // log followers and commands do not end by themselves
		}
		return nil
	})
	defer retract()
	return parts.Wait()
}

// announce makes the server known, its file before /readyz says yes; retract
// takes the file away.
func announce(o Options, c *control.Control, addr net.Addr, key string) (retract func()) {
	url := "http://" + addr.String()
	if tcp, ok := addr.(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		o.Log.Warn("keys and data cross the network in the clear", "listen", addr.String(), "try", "a proxy with TLS in front, or --listen 127.0.0.1:5347")
	}
	file, err := config.WriteServer(o.ServersDir, addr.String(), config.Server{URL: url, Key: key, PID: os.Getpid(), Started: time.Now().UTC()})
	if err != nil {
		o.Log.Error("the command line will not find this server by itself", "error", err)
	}
	c.SetReady(true)
	if o.Ready != nil {
		o.Ready(url)
	}
	return func() {
		if file != "" {
			_ = os.Remove(file) // a stale one is harmless: its process is gone
		}
	}
}

// awaitAgent gives the agent a moment to come up, so that the first call does
// not find a server without a host. One that does not come is no reason to
// refuse calls: the API can say more about it than a server that never answers.
func awaitAgent(ctx context.Context, c *control.Control) {
	ctx, cancel := context.WithTimeout(ctx, agentStartTime)
	defer cancel()
	_ = c.WaitHosts(ctx)
}

// protocols lets clients without TLS speak HTTP/2, which streams want.
func protocols() *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	return &p
}
