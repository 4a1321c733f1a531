package hostnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// Bounds of the resolver. One sandbox that asks without end keeps no other
// from asking.
const (
	maxQuestions          = 512             // at a time
	maxQuestionsPerClient = 64              // at a time, of one sandbox
	maxStreams            = 256             // TCP connections
	maxStreamsPerClient   = 16              // of one sandbox
	maxQueryBytes         = 1232            // of a question over UDP
	answerTimeout         = 5 * time.Second // for a question, all attempts together
	attemptTimeout        = 2 * time.Second // for one resolver to answer
	attemptRounds         = 2               // through the list of resolvers
	listenTries           = 16              // for a port that is free for UDP and TCP
)

// resolver answers the names that sandboxes ask for by asking the resolvers of
// the host, so that names work under a policy that forbids the sandbox to
// reach them, and wherever they listen.
//
// It listens on the gateway's address alone; rules lead port 53 there.
type resolver struct {
	port      uint16
	upstreams *upstreams
	log       *slog.Logger
	questions *quota

	ctx    context.Context // ends when the resolver closes; bounds every question
	cancel context.CancelFunc
	udp    *dns.Server
	tcp    *dns.Server
	served chan error // one value from each server when it ends
}

// openResolver listens and begins to answer. It takes the preferred port where
// that is free.
func openResolver(resolvConf string, preferred uint16, log *slog.Logger) (*resolver, error) {
	packets, streams, err := listenBoth(preferred)
	if err != nil {
		return nil, fmt.Errorf("listen for names: %w", err)
	}
	r := &resolver{
		port:      packets.LocalAddr().(*net.UDPAddr).AddrPort().Port(),
		upstreams: &upstreams{path: resolvConf},
		log:       log,
		questions: newQuota(maxQuestions, maxQuestionsPerClient),
		served:    make(chan error, 2),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	handler := dns.HandlerFunc(r.serve)
	limited := &limitedListener{Listener: streams, quota: newQuota(maxStreams, maxStreamsPerClient)}
	r.udp = &dns.Server{PacketConn: packets, Handler: handler, UDPSize: maxQueryBytes}
	r.tcp = &dns.Server{Listener: limited, Handler: handler}
	for _, server := range []*dns.Server{r.udp, r.tcp} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go func() { r.served <- server.ActivateAndServe() }()
		<-started
	}
	return r, nil
}

// listenBoth listens on one port for UDP and TCP.
func listenBoth(preferred uint16) (net.PacketConn, net.Listener, error) {
	var problem error
	for try := range listenTries {
		port := preferred
		if try > 0 {
			port = 0
		}
		packets, streams, err := listenPort(port)
		if err == nil {
			return packets, streams, nil
		}
		problem = err
		if !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return nil, nil, problem
}

// listenPort listens on a port of the gateway's address, which need not exist
// yet: it comes with the first sandbox. Port 0 means any.
func listenPort(port uint16) (net.PacketConn, net.Listener, error) {
	config := net.ListenConfig{Control: allowAbsentAddress}
	address := func(port uint16) string { return net.JoinHostPort(gateway.String(), strconv.Itoa(int(port))) }
	packets, err := config.ListenPacket(context.Background(), "udp4", address(port))
	if err != nil {
		return nil, nil, err
	}
	port = packets.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	streams, err := config.Listen(context.Background(), "tcp4", address(port))
	if err != nil {
		packets.Close()
		return nil, nil, err
	}
	return packets, streams, nil
}

// allowAbsentAddress lets a socket be bound to an address the host has not got
// yet.
func allowAbsentAddress(_, _ string, conn syscall.RawConn) error {
	var optErr error
	err := conn.Control(func(fd uintptr) {
		optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	})
	return errors.Join(err, optErr)
}

// close stops answering and waits for the questions on their way.
func (r *resolver) close() {
	r.cancel()
	for _, server := range []*dns.Server{r.udp, r.tcp} {
		_ = server.Shutdown() // fails only where the server ended by itself
	}
	for range 2 {
		if err := <-r.served; err != nil {
			r.log.Debug("the resolver ended with an error", "error", err)
		}
	}
}

// serve answers one question.
func (r *resolver) serve(w dns.ResponseWriter, request *dns.Msg) {
	client := clientOf(w.RemoteAddr())
	reply := r.answer(client, request)
	if _, ok := w.RemoteAddr().(*net.UDPAddr); ok {
		reply.Truncate(replySize(request))
	}
	if err := w.WriteMsg(reply); err != nil {
		r.log.Debug("an answer could not be sent", "client", client, "error", err)
	}
}

// answer returns the reply to a question, which may say that it failed.
func (r *resolver) answer(client netip.Addr, request *dns.Msg) *dns.Msg {
	if !forwardable(request) {
		return new(dns.Msg).SetRcode(request, dns.RcodeRefused)
	}
	if !r.questions.enter(client) {
		return new(dns.Msg).SetRcode(request, dns.RcodeServerFailure)
	}
	defer r.questions.leave(client)
	ctx, cancel := context.WithTimeout(r.ctx, answerTimeout)
	defer cancel()
	reply, err := r.forward(ctx, request)
	if err != nil {
		r.log.Debug("a name could not be resolved", "client", client, "name", request.Question[0].Name, "error", err)
		return new(dns.Msg).SetRcode(request, dns.RcodeServerFailure)
	}
	reply.Id = request.Id
	return reply
}

// forwardable reports whether a message is a plain question for a name; zone
// transfers and updates are none.
func forwardable(request *dns.Msg) bool {
	if request.Response || request.Opcode != dns.OpcodeQuery || len(request.Question) != 1 {
		return false
	}
	kind := request.Question[0].Qtype
	return kind != dns.TypeAXFR && kind != dns.TypeIXFR
}

// replySize returns how long a reply over UDP may be.
func replySize(request *dns.Msg) int {
	if opt := request.IsEdns0(); opt != nil {
		return max(dns.MinMsgSize, int(opt.UDPSize()))
	}
	return dns.MinMsgSize
}

// forward asks the host's resolvers in turn until one answers.
func (r *resolver) forward(ctx context.Context, request *dns.Msg) (*dns.Msg, error) {
	servers, err := r.upstreams.list()
	if err != nil {
		return nil, err
	}
	var failed *dns.Msg
	var problem error
	for range attemptRounds {
		for _, server := range servers {
			reply, err := exchange(ctx, request, server)
			switch {
			case err != nil:
				problem = fmt.Errorf("ask %s: %w", server, err)
			case reply.Rcode == dns.RcodeServerFailure:
				failed = reply
			default:
				return reply, nil
			}
			if ctx.Err() != nil {
				return nil, problem
			}
		}
		if failed != nil {
			return failed, nil
		}
	}
	return nil, problem
}

// exchange asks one resolver, over TCP again where the answer was cut off.
func exchange(ctx context.Context, request *dns.Msg, server netip.AddrPort) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	reply, err := exchangeOver(ctx, "udp", request, server)
	if err == nil && reply.Truncated {
		return exchangeOver(ctx, "tcp", request, server)
	}
	return reply, err
}

// exchangeOver asks one resolver over one transport.
func exchangeOver(ctx context.Context, network string, request *dns.Msg, server netip.AddrPort) (*dns.Msg, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	question := request.Copy()
	question.Id = dns.Id()
	client := dns.Client{Net: network, UDPSize: dns.DefaultMsgSize, Timeout: attemptTimeout}
	reply, _, err := client.ExchangeWithConnContext(ctx, question, &dns.Conn{Conn: conn})
	if err != nil {
		return nil, err
	}
	if len(reply.Question) != 1 || !sameQuestion(reply.Question[0], question.Question[0]) {
		return nil, errors.New("the answer is to another question")
	}
	return reply, nil
}

// sameQuestion reports whether two questions are the same; names compare
// without case.
func sameQuestion(a, b dns.Question) bool {
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}

// clientOf returns who asks.
func clientOf(addr net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
