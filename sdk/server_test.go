package sdk_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/api"
	"github.com/lehr-dev/lehr/internal/bus/membus"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/fleet"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/role/control"
	"github.com/lehr-dev/lehr/internal/store/sqlstore/lite"
)

// server is a control plane in this process, with an API over HTTP and one
// scripted host whose commands say what echo and cat would.
type server struct {
	URL, Key string

	stop    context.CancelFunc
	running sync.WaitGroup
	closers []func()
}

// startServer is for examples, which have no test to fail.
func startServer() *server {
	ctx, stop := context.WithCancel(context.Background())
	s := &server{stop: stop}
	st, err := lite.Open(ctx, lite.Options{Path: lite.Memory})
	must(err)
	signals := membus.New()
	host := agenttest.NewHost()
	host.Run = script
	inside := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from %s\n", r.URL.Path)
	}))
	var asked atomic.Int32
	host.Connect = func(ctx context.Context, _ lehr.SandboxID, port uint16) (net.Conn, error) {
		if port != 8000 || asked.Add(1) < 3 { // it takes a moment to start, as servers do
			return nil, errs.New(errs.Unavailable, "nothing listens on port %d", port).WithCode("port_closed")
		}
		return new(net.Dialer).DialContext(ctx, "tcp", inside.Listener.Addr().String())
	}
	inside.Start()
	c := control.New(control.Options{
		Store: st, Bus: signals, Workers: 2, Embedded: true, Log: slog.New(slog.DiscardHandler),
		Gateway: control.Gateway{Domain: "localhost", Scheme: "http", Port: "5347"},
		Hosts:   []fleet.Member{{Name: "scripted", Dial: func(context.Context) (agent.Agent, error) { return host, nil }}},
	})
	s.running.Go(func() { must(c.Run(ctx)) })
	must(c.WaitHosts(ctx))
	front := httptest.NewServer(c.Handler())
	s.URL = front.URL
	s.closers = []func(){front.Close, inside.Close, func() { _ = signals.Close() }, func() { _ = st.Close() }}
	team, err := st.Accounts().EnsureTeam(ctx, "default")
	must(err)
	k, secret := api.NewKey(team.ID, "example", false, time.Now())
	hash, _ := api.HashKey(secret)
	must(st.Accounts().CreateKey(ctx, k, hash))
	s.Key = secret
	return s
}

func (s *server) Close() {
	s.stop()
	s.running.Wait()
	for _, f := range s.closers {
		f()
	}
}

// script plays commands: echo, a failing make, and everything else in silence.
func script(_ context.Context, r agent.Exec, out agent.Output) (agent.Exit, error) {
	line := strings.Join(r.Args, " ")
	_, said, echo := strings.Cut(line, "echo ")
	switch {
	case echo:
		return agent.Exit{}, out("stdout", []byte(said+"\n"))
	case slices.Contains(r.Args, "make"):
		return agent.Exit{Code: 2}, out("stderr", []byte("make: *** No targets.\n"))
	}
	return agent.Exit{}, nil
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
