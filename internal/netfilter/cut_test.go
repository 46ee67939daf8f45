package netfilter

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"meros/internal/proc"
)

// in does work on a thread that has joined the stand-in's namespace; the sockets that
// it makes are that namespace's for ever. The thread comes back: one that ended would
// take the stand-ins with it that it has started (prctl(2), PR_SET_PDEATHSIG).
func (g standIn) in(t *testing.T, work func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		own, err := join(fmt.Sprintf("/proc/%d/ns/net", g.pid))
		if err == nil {
			err = work()
			if backErr := unix.Setns(own, unix.CLONE_NEWNET); backErr != nil {
				panic(backErr)
			}
			_ = unix.Close(own)
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	must(t, <-done)
}

// join has this thread join a network namespace, and returns the one that it was in.
func join(file string) (own int, err error) {
	if own, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return 0, err
	}
	ns, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	return own, unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
}

func (g *guests) standIn(name string) standIn {
	for _, s := range g.all {
		if s.target == name {
			return s
		}
	}
	g.t.Fatalf("no stand-in %s", name)
	return standIn{}
}

// echo starts a server in a stand-in that sends back what it gets.
func (g *guests) echo(name, address string) {
	g.t.Helper()
	var l net.Listener
	g.standIn(name).in(g.t, func() (err error) {
		l, err = net.Listen("tcp4", address)
		return err
	})
	g.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()
}

// answers reports whether a connection still carries anything there and back.
func answers(c net.Conn, within time.Duration) bool {
	_ = c.SetDeadline(time.Now().Add(within))
	if _, err := c.Write([]byte("x")); err != nil {
		return false
	}
	_, err := c.Read(make([]byte, 1))
	return err == nil
}

// TestForbiddenIsCut opens connections that are allowed, from the host and between
// guests, and has a changed policy forbid them.
func TestForbiddenIsCut(t *testing.T) {
	if !inNetns(t) {
		return
	}
	g := newGuests(t, "pair")
	load := func(text string) {
		t.Helper()
		must(t, nft(t.Context(), proc.Host{}, text, nil))
	}
	load(g.rules.Text)
	g.echo("a", "10.62.3.2:22")
	g.echo("b", "10.62.3.3:80")
	fromHost, err := net.Dial("tcp4", "10.62.3.2:22")
	must(t, err)
	var between net.Conn
	g.standIn("a").in(t, func() (err error) {
		between, err = net.Dial("tcp4", "10.62.3.3:80")
		return err
	})
	if !answers(fromHost, 20*time.Second) || !answers(between, 20*time.Second) {
		t.Fatal("what is allowed does not work")
	}
	text := ""
	for line := range strings.Lines(g.rules.Text) {
		if !strings.Contains(line, ": host to a") && !strings.Contains(line, ": a to b") {
			text += line
		}
	}
	load(text)
	n, err := Cut([]netip.Addr{netip.MustParseAddr("10.62.3.2"), netip.MustParseAddr("10.62.3.3")})
	must(t, err)
	t.Logf("%d connections cut", n)
	if answers(fromHost, 2*time.Second) {
		t.Error("the connection from the host goes on")
	}
	if answers(between, 2*time.Second) {
		t.Error("the connection between the guests goes on")
	}
}
