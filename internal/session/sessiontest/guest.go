// Package sessiontest has an SSH server that stands for a guest: tests of what speaks
// with guests need none then. A command runs on this host, as whoever runs the test.
package sessiontest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"testing"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"meros/internal/proc"
)

// Guest is such a server.
type Guest struct {
	Addr netip.AddrPort
	Home string // where its commands run

	config *ssh.ServerConfig
}

// Address returns an address of this host that a recipe may give to a guest, which
// the loopback's is not. Where there is none, the test is skipped.
func Address(t *testing.T) netip.Addr {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr()
		}
	}
	t.Skip("this host has no address but the loopback's")
	return netip.Addr{}
}

// Start starts a guest with that host key, which lets in whom the authorised key is.
func Start(t *testing.T, addr netip.Addr, hostKey, authorizedKey []byte) *Guest {
	t.Helper()
	host, err := ssh.ParsePrivateKey(hostKey)
	if err != nil {
		t.Fatal(err)
	}
	authorized, _, _, _, err := ssh.ParseAuthorizedKey(authorizedKey)
	if err != nil {
		t.Fatal(err)
	}
	g := &Guest{Home: t.TempDir(), config: &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if string(key.Marshal()) != string(authorized.Marshal()) {
				return nil, errors.New("unknown key")
			}
			return nil, nil
		},
		BannerCallback: func(ssh.ConnMetadata) string { return "\x1b]0;banner\x07banner" },
	}}
	g.config.AddHostKey(host)
	l, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	g.Addr = netip.MustParseAddrPort(l.Addr().String())
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go g.serve(conn)
		}
	}()
	return g
}

func (g *Guest) serve(conn net.Conn) {
	defer conn.Close()
	server, channels, requests, err := ssh.NewServerConn(conn, g.config)
	if err != nil {
		return
	}
	go serveForwards(server, requests)
	for n := range channels {
		switch n.ChannelType() {
		case "session":
			go g.session(n)
		case "direct-tcpip":
			go connect(n)
		default:
			_ = n.Reject(ssh.UnknownChannelType, "unknown")
		}
	}
}

func (g *Guest) session(n ssh.NewChannel) {
	ch, requests, err := n.Accept()
	if err != nil {
		return
	}
	signals := make(chan string, 10)
	defer close(signals)
	for r := range requests {
		var text struct{ S string }
		_ = ssh.Unmarshal(r.Payload, &text)
		if r.WantReply {
			_ = r.Reply(true, nil)
		}
		switch r.Type {
		case "exec":
			go g.run(ch, []string{"/bin/sh", "-c", text.S}, signals)
		case "shell":
			go g.run(ch, []string{"/bin/sh"}, signals)
		case "subsystem":
			go func() {
				if s, err := sftp.NewServer(ch, sftp.WithServerWorkingDirectory(g.Home)); err == nil {
					_ = s.Serve()
				}
				_ = ch.Close()
			}()
		case "signal":
			signals <- text.S
		}
	}
}

var signalOf = map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}

func (g *Guest) run(ch ssh.Channel, argv []string, signals <-chan string) {
	defer ch.Close()
	in, w, err := os.Pipe() // a file: the command's end does not wait for its input's
	if err != nil {
		return
	}
	defer in.Close()
	go func() { _, _ = io.Copy(w, ch); _ = w.Close() }()
	err = proc.Host{}.Run(context.Background(), proc.Cmd{
		Argv: argv, Dir: g.Home, Stdin: in, Stdout: ch, Stderr: ch.Stderr(),
		Started: func(pid int) error {
			go func() {
				for name := range signals {
					_ = syscall.Kill(-pid, signalOf[name])
				}
			}()
			return nil
		},
	})
	exit, failed := errors.AsType[*proc.ExitError](err)
	if failed && exit.Signal != 0 {
		for name, signal := range signalOf {
			if signal == exit.Signal {
				_, _ = ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
					Signal    string
					Core      bool
					Msg, Lang string
				}{Signal: name}))
			}
		}
		return
	}
	status := struct{ Status uint32 }{}
	if failed {
		status.Status = uint32(exit.Code)
	}
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(status))
}

// hostPort is where a forward listens: RFC 4254, 7.1.
type hostPort struct {
	Host string
	Port uint32
}

// addresses are where a connection goes to and comes from: RFC 4254, 7.2.
type addresses struct {
	Host     string
	Port     uint32
	From     string
	FromPort uint32
}

func (a hostPort) String() string { return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port))) }

// connect makes a connection that the client asks for.
func connect(n ssh.NewChannel) {
	var to addresses
	_ = ssh.Unmarshal(n.ExtraData(), &to)
	conn, err := net.Dial("tcp", hostPort{to.Host, to.Port}.String())
	if err != nil {
		_ = n.Reject(ssh.ConnectionFailed, "refused")
		return
	}
	ch, requests, err := n.Accept()
	if err != nil {
		_ = conn.Close()
		return
	}
	go ssh.DiscardRequests(requests)
	join(ch, conn.(*net.TCPConn))
}

// serveForwards listens where the client asks for it.
func serveForwards(server *ssh.ServerConn, requests <-chan *ssh.Request) {
	for r := range requests {
		var at hostPort
		if r.Type != "tcpip-forward" || ssh.Unmarshal(r.Payload, &at) != nil {
			if r.WantReply {
				_ = r.Reply(false, nil)
			}
			continue
		}
		l, err := net.Listen("tcp", at.String())
		_ = r.Reply(err == nil, nil)
		if err != nil {
			continue
		}
		go func() { _ = server.Wait(); _ = l.Close() }()
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				extra := addresses{at.Host, at.Port, "127.0.0.1", 1}
				ch, requests, err := server.OpenChannel("forwarded-tcpip", ssh.Marshal(extra))
				if err != nil {
					_ = conn.Close()
					continue
				}
				go ssh.DiscardRequests(requests)
				go join(ch, conn.(*net.TCPConn))
			}
		}()
	}
}

func join(ch ssh.Channel, conn *net.TCPConn) {
	go func() { _, _ = io.Copy(conn, ch); _ = conn.CloseWrite() }()
	_, _ = io.Copy(ch, conn)
	_ = ch.Close()
}
