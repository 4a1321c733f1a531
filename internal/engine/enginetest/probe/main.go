// Command probe is the first process of the sandboxes that the engine suite
// starts. It answers the verbs of the suite on a TCP port and keeps a nonce and
// a counter that exist only in its memory.
package main

import (
	"fmt"
	"net"
	"os"
	"time"

	"github.com/lehr-dev/lehr/internal/engine/enginetest/probewire"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "sleep" {
		for { // a spawned child: lives until it is killed
			time.Sleep(time.Hour) // select{} would be found to be a deadlock
		}
	}
	if len(os.Args) > 2 && os.Args[1] == "ask" {
		if err := ask(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, "probe:", err)
			os.Exit(1)
		}
		return
	}
	fmt.Fprintln(os.Stderr, "probe:", serve())
	os.Exit(1)
}

// ask puts one verb to the probe that serves here and prints its reply; for
// subjects that can run commands but not dial.
func ask(verb string, args []string) error {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", probewire.Port))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := probewire.Write(conn, probewire.Request{Verb: verb, Args: args}); err != nil {
		return err
	}
	var reply probewire.Reply
	if err := probewire.Read(conn, &reply); err != nil {
		return err
	}
	return probewire.Write(os.Stdout, reply)
}

// serve answers one verb per connection; it returns only when it cannot.
func serve() error {
	ln, err := net.Listen("tcp", fmt.Sprintf(":%d", probewire.Port))
	if err != nil {
		return err
	}
	mem, err := newMemory()
	if err != nil {
		return err
	}
	go mem.count()
	for {
		conn, err := ln.Accept()
		if err != nil {
			// A restored sandbox may see its old accept fail once.
			time.Sleep(time.Millisecond)
			continue
		}
		go answer(mem, conn)
	}
}

// answer reads a verb, runs it and replies.
func answer(mem *memory, conn net.Conn) {
	defer conn.Close()
	var req probewire.Request
	if err := probewire.Read(conn, &req); err != nil {
		return
	}
	if req.Verb == "hold" {
		hold(conn)
		return
	}
	var reply probewire.Reply
	out, err := mem.run(req)
	reply.Out = out
	if err != nil {
		reply.Err = describe(err)
	}
	if err := probewire.Write(conn, reply); err != nil {
		fmt.Fprintln(os.Stderr, "probe: reply:", err)
	}
}

// hold confirms, then keeps the connection until the other side ends it.
func hold(conn net.Conn) {
	if err := probewire.Write(conn, probewire.Reply{Out: "held"}); err != nil {
		return
	}
	buf := make([]byte, 1)
	for {
		if _, err := conn.Read(buf); err != nil {
			return
		}
	}
}
