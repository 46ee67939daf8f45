package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"meros/internal/family"
	"meros/internal/layout"
	"meros/internal/proc"
	"meros/internal/ui"
)

// guest is an SSH server in this process that stands for a target.
type guest struct {
	t         *testing.T
	paths     layout.Paths
	target    *family.Target
	home      string
	config    *ssh.ServerConfig
	sftp      func(ssh.Channel)                     // nil: a true SFTP server in home
	shell     func(ch ssh.Channel, reqs chan event) // nil: /bin/sh runs the command
	connected func(*ssh.ServerConn)                 // called once a client is logged in; may be nil
	starting  func()                                // called before a command or shell is started; may be nil
	early     func(ch ssh.Channel, line string)     // what a process that is to wait does; nil: as a command

	mu    sync.Mutex
	conns []net.Conn
}

// event is a request of the client on a session.
type event struct {
	kind    string
	payload []byte
}

// newGuest starts a guest with fresh keys after change was made to it.
func newGuest(t *testing.T, change func(*guest)) *guest {
	t.Helper()
	g := &guest{
		t: t, paths: layout.Paths{Root: t.TempDir()}, home: t.TempDir(),
		target: &family.Target{Family: "mos_demo", Name: "box", User: "user", SharedDir: "mos-shared"},
	}
	t.Cleanup(func() { _ = removeTree(g.home) })
	t.Chdir(g.home)
	id, err := MakeKeys(g.paths, g.target.FullID())
	if err != nil {
		t.Fatal(err)
	}
	authorized, _, _, _, err := ssh.ParseAuthorizedKey(id.AuthorizedKey)
	if err != nil {
		t.Fatal(err)
	}
	g.config = &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if string(key.Marshal()) != string(authorized.Marshal()) {
				return nil, errors.New("unknown key")
			}
			return nil, nil
		},
		BannerCallback: func(ssh.ConnMetadata) string { return "\x1b]0;owned\x07hello" },
	}
	host, err := ssh.ParsePrivateKey(id.HostPrivate)
	if err != nil {
		t.Fatal(err)
	}
	g.config.AddHostKey(host)
	if change != nil {
		change(g)
	}
	g.listen()
	return g
}

func (g *guest) listen() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	g.point(l.Addr())
	g.t.Cleanup(func() {
		_ = l.Close()
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, c := range g.conns {
			_ = c.Close()
		}
	})
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			g.mu.Lock()
			g.conns = append(g.conns, conn)
			g.mu.Unlock()
			go g.serve(conn)
		}
	}()
}

// point makes the target's address that one.
func (g *guest) point(addr net.Addr) {
	at := netip.MustParseAddrPort(addr.String())
	g.target.Addr, g.target.SSHPort = at.Addr(), int(at.Port())
}

func (g *guest) serve(conn net.Conn) {
	server, chans, reqs, err := ssh.NewServerConn(conn, g.config)
	if err != nil {
		_ = conn.Close()
		return
	}
	if g.connected != nil {
		go g.connected(server)
	}
	go ssh.DiscardRequests(reqs)
	for n := range chans {
		if n.ChannelType() == "direct-tcpip" {
			go g.connect(n)
			continue
		}
		ch, reqs, err := n.Accept()
		if err != nil {
			return
		}
		go g.session(ch, reqs)
	}
}

// connect makes the connection that a client asks for.
func (g *guest) connect(n ssh.NewChannel) {
	var to struct {
		Host   string
		Port   uint32
		Origin string
		From   uint32
	}
	_ = ssh.Unmarshal(n.ExtraData(), &to)
	conn, err := net.Dial("tcp", net.JoinHostPort(to.Host, fmt.Sprint(to.Port)))
	if err != nil {
		_ = n.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	ch, reqs, err := n.Accept()
	if err != nil {
		return
	}
	go ssh.DiscardRequests(reqs)
	go func() { _, _ = io.Copy(conn, ch); _ = conn.(*net.TCPConn).CloseWrite() }()
	_, _ = io.Copy(ch, conn)
	_ = ch.Close()
}

func (g *guest) session(ch ssh.Channel, reqs <-chan *ssh.Request) {
	events := make(chan event, 100)
	defer close(events)
	for r := range reqs {
		if g.starting != nil && (r.Type == "exec" || r.Type == "shell") {
			g.starting()
		}
		if r.WantReply {
			_ = r.Reply(r.Type != "env", nil)
		}
		switch {
		case r.Type == "subsystem" && g.sftp != nil:
			go func() { g.sftp(ch); _ = ch.Close() }()
		case r.Type == "subsystem":
			go g.serveFiles(ch)
		case r.Type != "exec" && r.Type != "shell":
			events <- event{r.Type, r.Payload}
		case g.early != nil && strings.HasPrefix(commandOf(r), "case $SHELL in"):
			go g.early(ch, commandOf(r))
		case g.shell != nil:
			go func() { g.shell(ch, events); _ = ch.Close() }()
		default:
			go g.run(ch, commandOf(r), events)
		}
	}
}

func commandOf(r *ssh.Request) string {
	var c struct{ Line string }
	_ = ssh.Unmarshal(r.Payload, &c)
	return c.Line
}

func (g *guest) serveFiles(ch ssh.Channel) {
	s, err := sftp.NewServer(ch) // given a folder to work in, it would make links absolute
	if err == nil {
		_ = s.Serve()
	}
	_ = ch.Close()
}

// run hands a command line to a shell, as sshd does.
func (g *guest) run(ch ssh.Channel, line string, events <-chan event) {
	r, w, err := os.Pipe()
	if err != nil {
		return
	}
	go func() { _, _ = io.Copy(w, ch); _ = w.Close() }()
	argv := []string{"/bin/sh", "-c", line}
	if line == "" {
		argv = []string{"/bin/sh"}
	}
	err = proc.Host{}.Run(context.Background(), proc.Cmd{
		Argv: argv, Dir: g.home, Stdin: r, Stdout: ch, Stderr: ch.Stderr(),
		Started: func(pid int) error { go pass(pid, events); return nil },
	})
	_ = r.Close()
	exit, ok := errors.AsType[*proc.ExitError](err)
	switch {
	case err == nil:
		sendStatus(ch, 0)
	case ok && exit.Signal != 0:
		sendSignal(ch, map[syscall.Signal]string{syscall.SIGINT: "INT", syscall.SIGTERM: "TERM", syscall.SIGKILL: "KILL"}[exit.Signal])
	case ok:
		sendStatus(ch, uint32(exit.Code))
	}
	_ = ch.Close()
}

func sendStatus(ch ssh.Channel, status uint32) {
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
}

func sendSignal(ch ssh.Channel, name string) {
	msg := struct {
		Signal    string
		Core      bool
		Msg, Lang string
	}{Signal: name}
	_, _ = ch.SendRequest("exit-signal", false, ssh.Marshal(msg))
}

// pass hands signals on to a process.
func pass(pid int, events <-chan event) {
	for e := range events {
		var s struct{ Name string }
		if e.kind == "signal" && ssh.Unmarshal(e.payload, &s) == nil {
			sig := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}[s.Name]
			_ = syscall.Kill(-pid, sig)
		}
	}
}

// dial opens a connection to the guest.
func (g *guest) dial() *Conn {
	g.t.Helper()
	return g.dialTicking(tick)
}

// dialTicking is dial with another measure of patience.
func (g *guest) dialTicking(every time.Duration) *Conn {
	g.t.Helper()
	d, err := newDialer(g.paths, g.target)
	if err != nil {
		g.t.Fatal(err)
	}
	d.every = every
	c, err := d.dial(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = c.Close() })
	return c
}

// shared is the guest's shared folder, made.
func (g *guest) shared() string {
	dir := filepath.Join(g.home, "mos-shared")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		g.t.Fatal(err)
	}
	return dir
}

func quiet() *ui.Streams {
	return &ui.Streams{In: nil, Out: io.Discard, Err: io.Discard}
}

// within fails the test if do takes longer than limit.
func within(t *testing.T, limit time.Duration, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("%s took more than %s", what, limit)
	}
}

// eventually waits until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not come about", what)
		}
	}
}

func want(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
		t.Errorf("%s = %#v, want %#v", what, got, want)
	}
}
