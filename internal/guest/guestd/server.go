package guestd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/api/gen/envd/filesystem/filesystemconnect"
	"github.com/lehr-dev/lehr/api/gen/envd/process/processconnect"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/account"
	"github.com/lehr-dev/lehr/internal/guest/initd"
	"github.com/lehr-dev/lehr/internal/guest/process"
	"github.com/lehr-dev/lehr/internal/guest/wire"
)

// Limits of requests.
const (
	maxMessage = 4 << 20  // one RPC message
	maxHeader  = 64 << 10 // all headers of a request
	maxInit    = 1 << 20  // the body of /init
)

// system is what the daemon asks of the sandbox it is process 1 of.
type system interface {
	Apply(initd.Identity) error
	Sync()
	EndProcesses(ctx context.Context) error
}

// Options are what a Server is made of.
type Options struct {
	Version   string              // on /health
	Processes *process.Supervisor // closed by the caller
	System    system
	Secret    *initd.Secret // who is operator; closed by the caller
	Users     *account.Database
	Log       *slog.Logger
	// StallLimit is how long a transfer may stand still; 0 is 5 minutes.
	StallLimit time.Duration
}

// Server answers the daemon's calls. It is safe for concurrent use.
type Server struct {
	opt   Options
	state *state
	conns *connections

	watchers *watchers
	meter    cpuMeter
}

// New returns a server.
func New(opt Options) *Server {
	return &Server{opt: opt, state: &state{}, conns: newConnections(), watchers: newWatchers()}
}

// Handler returns the handler of all routes.
func (s *Server) Handler() http.Handler {
	limits := connect.WithReadMaxBytes(maxMessage)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", s.health)
	mux.Handle("POST /init", s.operator(s.init))
	mux.Handle("POST /sync", s.operator(s.sync))
	mux.Handle("POST /end-processes", s.operator(s.endProcesses))
	mux.Handle("GET /envs", s.user(s.envs))
	mux.Handle("GET /metrics", s.user(s.metrics))
	mux.Handle("GET /files", s.fileUser(s.download))
	mux.Handle("POST /files", s.fileUser(s.upload))
	mux.Handle("POST /files/compose", s.user(s.compose))
	path, handler := processconnect.NewProcessHandler(&processService{server: s}, limits)
	mux.Handle(path, s.user(handler.ServeHTTP))
	path, handler = filesystemconnect.NewFilesystemHandler(&filesystemService{server: s}, limits)
	mux.Handle(path, s.user(handler.ServeHTTP))
	return mux
}

// Serve answers calls on l, over HTTP/1.1 and HTTP/2 without TLS, until ctx
// ends; it then drops all connections. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler:           s.Handler(),
		Protocols:         protocols,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       withConnection,
		ConnState:         s.conns.track,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(s.opt.Log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	defer s.watchers.end()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return errs.Wrap(err, errs.Internal, "guestd.Serve", "the listener failed")
	}
	return nil
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set(wire.HeaderGuest, s.opt.Version)
	w.Header().Set(wire.HeaderProtocol, strconv.Itoa(wire.Protocol))
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}
