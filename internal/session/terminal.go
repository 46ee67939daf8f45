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

// runTTY runs a command line, or the login shell for "", on a terminal of the
// guest that is tied to the caller's, if there is one.
func runTTY(ctx context.Context, c *Conn, s *ui.Streams, line string, getenv func(string) string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer stop()
	sess, err := c.client.NewSession()
	if err != nil {
		return c.fault(err)
	}
	defer sess.Close()
	in, isTerminal := ui.Terminal(s.In)
	if err := requestTTY(sess, in, getenv); err != nil {
		return c.fault(err)
	}
	stdin, err := sess.StdinPipe()
	if err != nil {
		return err
	}
	out := &output{w: s.Out, failed: func() { _ = sess.Close() }}
	sess.Stdout, sess.Stderr = out, out
	if !isTerminal {
		if err := startTTY(sess, line); err != nil {
			return c.fault(err)
		}
		go feed(stdin, s.In)
		return c.wait(ctx, sess)
	}
	return inRaw(in, func(guard func()) error {
		if err := startTTY(sess, line); err != nil {
			return c.fault(err)
		}
		left := make(chan struct{})
		go func() {
			defer guard()
			feed(stdin, &escapes{r: in, left: left})
		}()
		defer followSize(sess, in, guard)()
		return c.waitLeft(ctx, sess, left)
	})
}

// waitLeft is wait that also ends when the person leaves.
func (c *Conn) waitLeft(ctx context.Context, sess *ssh.Session, left <-chan struct{}) error {
	ended := make(chan struct{})
	defer close(ended)
	go func() {
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

// requestTTY asks for a terminal like the caller's and tells the caller's locale,
// which a guest may ignore.
func requestTTY(sess *ssh.Session, tty *os.File, getenv func(string) string) error {
	if getenv == nil {
		getenv = func(string) string { return "" }
	}
	for _, name := range locale {
		if value := getenv(name); value != "" {
			payload := ssh.Marshal(struct{ Name, Value string }{name, value})
			_, _ = sess.SendRequest("env", false, payload)
		}
	}
	kind := getenv("TERM")
	if kind == "" {
		kind = "dumb"
	}
	width, height := size(tty)
	return sess.RequestPty(kind, height, width, modes(tty))
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

// inRaw runs body with the terminal raw and puts it back as it was, whatever
// happens. Goroutines of body defer guard, which puts it back if they panic.
func inRaw(tty *os.File, body func(guard func()) error) error {
	was, err := term.MakeRaw(int(tty.Fd()))
	if err != nil {
		return err
	}
	restore := func() { _ = term.Restore(int(tty.Fd()), was) }
	defer restore()
	return body(func() {
		if p := recover(); p != nil {
			restore()
			panic(p)
		}
	})
}

// followSize tells the guest of changes of the terminal's size until stop is called.
func followSize(sess *ssh.Session, tty *os.File, guard func()) (stop func()) {
	changed, ended := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(changed, syscall.SIGWINCH)
	go func() {
		defer guard()
		for {
			select {
			case <-changed:
				width, height := size(tty)
				_ = sess.WindowChange(height, width)
			case <-ended:
				return
			}
		}
	}()
	return func() {
		signal.Stop(changed)
		close(ended)
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
