package session

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"meros/internal/ui"
)

// locale names the settings that a shell in the guest shares with the caller's.
var locale = []string{
	"LANG", "LC_ALL", "LC_ADDRESS", "LC_COLLATE", "LC_CTYPE", "LC_IDENTIFICATION", "LC_MEASUREMENT", "LC_MESSAGES",
	"LC_MONETARY", "LC_NAME", "LC_NUMERIC", "LC_PAPER", "LC_TELEPHONE", "LC_TIME", "COLORTERM",
}

// terminal is the caller's, as a terminal of the guest is to be.
type terminal struct {
	file          *os.File // nil: there is none
	width, height int
	modes         ssh.TerminalModes
	getenv        func(string) string
}

// runTTY runs a command line, or the login shell for "", on a terminal of the
// guest that is tied to the caller's, if there is one.
func runTTY(ctx context.Context, c *Conn, s *ui.Streams, line string, getenv func(string) string) error {
	ctx, stop := signal.NotifyContext(ctx, ui.Endings...)
	defer stop()
	in, isTerminal := ui.Terminal(s.In)
	if getenv == nil {
		getenv = func(string) string { return "" }
	}
	t := &terminal{file: in, modes: modes(in), getenv: getenv}
	t.width, t.height = size(in)
	if !isTerminal {
		return t.run(ctx, c, s, line)
	}
	return ui.Raw(in, func() error { return t.run(ctx, c, s, line) })
}

func (t *terminal) run(ctx context.Context, c *Conn, s *ui.Streams, line string) error {
	var stdin io.WriteCloser
	out := &output{w: s.Out}
	resized := make(chan os.Signal, 1) // from now on: none is missed while the shell starts
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	c, sess, end, err := c.begin(ctx, func(sess *ssh.Session) (err error) {
		if err := t.request(sess); err != nil {
			return err
		}
		out.failed = func() { _ = sess.Close() }
		sess.Stdout, sess.Stderr = out, out
		if stdin, err = sess.StdinPipe(); err != nil {
			return err
		}
		return startTTY(sess, line)
	})
	if err != nil {
		return err
	}
	defer end()
	if t.file == nil {
		go feed(stdin, s.In)
		return outputFirst(c.wait(ctx, sess), out)
	}
	left, ended := make(chan struct{}), make(chan struct{})
	defer close(ended)
	go feed(stdin, &escapes{r: t.file, left: left})
	go t.followSize(sess, resized, ended)
	return outputFirst(c.waitLeft(ctx, sess, left), out)
}

// waitLeft is wait that also ends when the person leaves.
func (c *Conn) waitLeft(ctx context.Context, sess *ssh.Session, left <-chan struct{}) error {
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		defer ui.Guard()
		select {
		case <-left:
			_ = c.pulse.Conn.Close()
		case <-ended:
		}
	}()
	err := c.wait(ctx, sess)
	select {
	case <-left:
		return fmt.Errorf("%w: ~. was typed", ErrLost)
	default:
		return err
	}
}

func startTTY(sess *ssh.Session, line string) error {
	if line == "" {
		return sess.Shell()
	}
	return sess.Start(line)
}

// request asks for a terminal like the caller's and tells the caller's locale,
// which a guest may ignore.
func (t *terminal) request(sess *ssh.Session) error {
	for _, name := range locale {
		if value := t.getenv(name); value != "" {
			payload := ssh.Marshal(struct{ Name, Value string }{name, value})
			_, _ = sess.SendRequest("env", false, payload)
		}
	}
	kind := t.getenv("TERM")
	if kind == "" {
		kind = "dumb"
	}
	return sess.RequestPty(kind, t.height, t.width, t.modes)
}

// size returns a terminal's columns and rows, and those of a VT100 for none.
func size(tty *os.File) (width, height int) {
	if tty != nil {
		if w, h, err := term.GetSize(int(tty.Fd())); err == nil && w > 0 && h > 0 {
			return w, h
		}
	}
	return 80, 24
}

// controls are the control characters that a guest's terminal takes over from
// the caller's (RFC 4254, 8).
var controls = map[uint8]int{
	ssh.VINTR: unix.VINTR, ssh.VQUIT: unix.VQUIT, ssh.VERASE: unix.VERASE, ssh.VKILL: unix.VKILL,
	ssh.VEOF: unix.VEOF, ssh.VSUSP: unix.VSUSP, ssh.VWERASE: unix.VWERASE, ssh.VREPRINT: unix.VREPRINT, ssh.VLNEXT: unix.VLNEXT,
}

// iutf8 is the mode by which a terminal erases whole characters: RFC 8160.
const iutf8 = 42

func modes(tty *os.File) ssh.TerminalModes {
	m := ssh.TerminalModes{ssh.ECHO: 1, iutf8: 1, ssh.TTY_OP_ISPEED: 38400, ssh.TTY_OP_OSPEED: 38400}
	if tty == nil {
		return m
	}
	t, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		return m
	}
	for code, index := range controls {
		m[code] = uint32(t.Cc[index])
	}
	return m
}

// followSize tells the guest of the terminal's size whenever it is another one, also
// where it changed before the guest's shell was started.
func (t *terminal) followSize(sess *ssh.Session, resized <-chan os.Signal, ended <-chan struct{}) {
	defer ui.Guard()
	for told := (struct{ w, h int }{t.width, t.height}); ; {
		if w, h := size(t.file); w != told.w || h != told.h {
			told.w, told.h = w, h
			_ = sess.WindowChange(h, w)
		}
		select {
		case <-resized:
		case <-ended:
			return
		}
	}
}

// escapes reads what is typed and closes left when a line begins with ~. as
// ssh(1) does, so that nobody is locked in with a guest that hangs. ~~ is ~.
type escapes struct {
	r     io.Reader
	left  chan struct{}
	state escapeState
}

type escapeState int

const (
	lineStart escapeState = iota // zero: nothing typed yet
	tilde                        // a line's first character was ~, held back
	midLine
)

// Read implements io.Reader.
func (e *escapes) Read(p []byte) (int, error) {
	if len(p) < 2 {
		return 0, io.ErrShortBuffer
	}
	raw := make([]byte, len(p)/2) // each byte may bring a held ~ with it
	n, err := e.r.Read(raw)
	out := p[:0]
	for _, b := range raw[:n] {
		switch {
		case e.state == tilde && b == '.':
			close(e.left)
			return len(out), io.EOF
		case e.state == tilde && b != '~':
			out = append(out, '~', b)
		case e.state == lineStart && b == '~':
			e.state = tilde
			continue
		default:
			out = append(out, b)
		}
		e.state = midLine
		if b == '\r' || b == '\n' {
			e.state = lineStart
		}
	}
	return len(out), err
}
