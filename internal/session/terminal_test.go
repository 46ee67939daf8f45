package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"meros/internal/proc"
	"meros/internal/ui"
	"meros/internal/ui/uitest"
)

func isRaw(t *testing.T, tty *os.File) bool {
	return uitest.Termios(t, tty).Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) == 0
}

type ptyRequest struct {
	Term                         string
	Width, Height, WidthP, HighP uint32
	Modes                        string
}

// echoShell is a guest's shell that says what it was told about its terminal and
// then returns what is typed, until q ends it with status 5 or p with none.
func echoShell(ch ssh.Channel, events chan event) {
	for len(events) > 0 { // what came before the shell was asked for
		tellTerminal(ch, <-events)
	}
	go func() {
		for e := range events {
			tellTerminal(ch, e)
		}
	}()
	b := make([]byte, 1)
	for {
		if _, err := ch.Read(b); err != nil {
			return
		}
		if b[0] == 'q' {
			sendStatus(ch, 5)
			return
		}
		_, _ = ch.Write(b)
	}
}

func tellTerminal(ch io.Writer, e event) {
	var p ptyRequest
	var w struct{ Width, Height, WidthP, HighP uint32 }
	var v struct{ Name, Value string }
	switch {
	case e.kind == "pty-req" && ssh.Unmarshal(e.payload, &p) == nil:
		fmt.Fprintf(ch, "<%s %dx%d>", p.Term, p.Width, p.Height)
	case e.kind == "window-change" && ssh.Unmarshal(e.payload, &w) == nil:
		fmt.Fprintf(ch, "<now %dx%d>", w.Width, w.Height)
	case e.kind == "env" && ssh.Unmarshal(e.payload, &v) == nil:
		fmt.Fprintf(ch, "<%s=%s>", v.Name, v.Value)
	}
}

// seen collects what comes out of a terminal's master.
func seen(master *os.File) func() string {
	b := &output{w: &bytes.Buffer{}, failed: func() {}}
	go func() { _, _ = io.Copy(b, master) }()
	return func() string {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.w.(*bytes.Buffer).String()
	}
}

// terminalSession runs a shell on a terminal until the test ends it by end.
func terminalSession(t *testing.T, end func(master *os.File, screen func() string, cancel func())) error {
	t.Helper()
	c := newGuest(t, func(g *guest) { g.shell = echoShell }).dial()
	master, tty := uitest.OpenPTY(t, 100, 30)
	before, screen := uitest.Termios(t, tty), seen(master)
	env := map[string]string{"TERM": "xterm-test", "LANG": "de_DE.UTF-8", "HOME": "/x"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() {
		result <- Shell(ctx, c, &ui.Streams{In: tty, Out: tty, Err: tty}, func(k string) string { return env[k] })
	}()
	eventually(t, "the shell", func() bool { return strings.Contains(screen(), "<xterm-test 100x30>") })
	eventually(t, "a raw terminal", func() bool { return isRaw(t, tty) })
	if !strings.Contains(screen(), "<LANG=de_DE.UTF-8>") || strings.Contains(screen(), "HOME") {
		t.Errorf("the guest was told %q", screen())
	}
	end(master, screen, cancel)
	select {
	case err := <-result:
		want(t, "terminal afterwards", uitest.Termios(t, tty), before)
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("the session does not end")
		return nil
	}
}

func TestTerminal(t *testing.T) {
	err := terminalSession(t, func(master *os.File, screen func() string, _ func()) {
		fmt.Fprint(master, "a\x03\x04")
		eventually(t, "what was typed, as it was typed", func() bool { return strings.Contains(screen(), "a\x03\x04") })
		for _, signal := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM} { // of no meaning
			if err := syscall.Kill(os.Getpid(), signal); err != nil {
				t.Fatal(err)
			}
		}
		uitest.Resize(t, master, 120, 40)
		if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the new size", func() bool { return strings.Contains(screen(), "<now 120x40>") })
		fmt.Fprint(master, "q")
	})
	if exit, ok := errors.AsType[*ExitError](err); !ok || exit.Status() != 5 {
		t.Errorf("error %v, want status 5", err)
	}
}

func TestTerminalAfterSignals(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGABRT} {
		err := terminalSession(t, func(*os.File, func() string, func()) {
			if err := syscall.Kill(os.Getpid(), signal); err != nil {
				t.Fatal(err)
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v, want the context's", signal, err)
		}
	}
}

func TestTerminalLeftByEscape(t *testing.T) {
	err := terminalSession(t, func(master *os.File, screen func() string, _ func()) {
		fmt.Fprint(master, "x~.y")
		eventually(t, "~. inside a line", func() bool { return strings.Contains(screen(), "x~.y") })
		fmt.Fprint(master, "\r~.")
	})
	if !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "~.") {
		t.Errorf("error %v", err)
	}
}

func TestTerminalAfterPanic(t *testing.T) {
	_, tty := uitest.OpenPTY(t, 100, 30)
	before := uitest.Termios(t, tty)
	for name, body := range map[string]func() error{
		"body":      func() error { panic("x") },
		"goroutine": func() error { defer ui.Guard(); panic("x") },
		"output": func() error {
			_, err := (&output{w: panics{}}).Write(nil)
			return err
		},
		"relay": func() error {
			relay(t.Context(), panics{}, anybody, nil, nil)
			return nil
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: the panic was swallowed", name)
				}
			}()
			_ = ui.Raw(tty, body)
		}()
		want(t, name+": terminal afterwards", uitest.Termios(t, tty), before)
	}
}

// A panic in any goroutine of ours leaves the terminal as it was.
func TestTerminalAfterPanicElsewhere(t *testing.T) {
	for name, start := range map[string]func(){
		"forward": func() {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				panic(err)
			}
			go relay(context.Background(), l, anybody, func() (net.Conn, error) { panic("dial") }, nil)
			_, _ = net.Dial("tcp", l.Addr().String())
		},
		"copy": func() { go join(context.Background(), panics{}, panics{}) },
		"feed": func() { go feed(panics{}, panics{}) },
	} {
		t.Run(name, func(t *testing.T) {
			if os.Getenv(childOf) != "" {
				_ = ui.Raw(os.Stdin, func() error { start(); select {} })
				return
			}
			_, tty := uitest.OpenPTY(t, 100, 30)
			before := uitest.Termios(t, tty)
			says, err := child(t, proc.Cmd{Stdin: tty})
			if err == nil || !strings.Contains(says, "panic") || !strings.Contains(says, "terminal_test.go") {
				t.Errorf("it ended with %v: %s", err, says)
			}
			want(t, "terminal afterwards", uitest.Termios(t, tty), before)
		})
	}
}

// panics is any stream, and panics when it is used.
type panics struct{ net.Conn }

func (panics) Read([]byte) (int, error)  { panic("read") }
func (panics) Write([]byte) (int, error) { panic("write") }
func (panics) Accept() (net.Conn, error) { panic("accept") }
func (panics) Addr() net.Addr            { return nil }
func (panics) Close() error              { return nil }

// childOf is set in a process that child has started.
const childOf = "MEROS_TEST_CHILD"

// child runs this test again in a process of its own, and returns what it says on its
// stderr.
func child(t *testing.T, c proc.Cmd) (says string, err error) {
	t.Helper()
	var errs bytes.Buffer
	c.Argv = []string{os.Args[0], "-test.run=^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$", "-test.timeout=30s"}
	c.Env, c.Stderr = append(os.Environ(), childOf+"=1"), &errs
	err = proc.Host{}.Run(t.Context(), c)
	return errs.String(), err
}

// Whoever reads what a session prints may end first, as head(1) does: the session ends
// and the terminal is as it was.
func TestTerminalWhenTheOutputIsClosed(t *testing.T) {
	if os.Getenv(childOf) != "" {
		c := newGuest(t, func(g *guest) { g.shell = echoShell }).dial()
		out := os.Stdout
		os.Stdout = os.Stderr // for what the test says of itself
		err := Shell(t.Context(), c, &ui.Streams{In: os.Stdin, Out: out, Err: os.Stderr}, func(string) string { return "" })
		if !errors.Is(err, syscall.EPIPE) {
			t.Errorf("error %v, want EPIPE", err)
		}
		return
	}
	_, tty := uitest.OpenPTY(t, 100, 30)
	before := uitest.Termios(t, tty)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	says, err := child(t, proc.Cmd{Stdin: tty, Stdout: w})
	if err != nil {
		t.Errorf("it ended with %v: %s", err, says)
	}
	want(t, "terminal afterwards", uitest.Termios(t, tty), before)
}

// What is told while a terminal is raw begins at its left.
func TestWarningOnARawTerminal(t *testing.T) {
	master, tty := uitest.OpenPTY(t, 100, 30)
	screen, s := seen(master), &ui.Streams{Err: tty}
	_ = ui.Raw(tty, func() error { s.Warn("x"); return nil })
	eventually(t, "a line that goes back", func() bool { return strings.Contains(screen(), "warning: x\r\n") })
}

// A terminal that changes its size before the shell has started is followed.
func TestTerminalResizedEarly(t *testing.T) {
	master, tty := uitest.OpenPTY(t, 100, 30)
	screen := seen(master)
	c := newGuest(t, func(g *guest) {
		g.shell = echoShell
		g.starting = func() {
			uitest.Resize(t, master, 90, 20)
			_ = syscall.Kill(os.Getpid(), syscall.SIGWINCH)
		}
	}).dial()
	ended := make(chan error, 1)
	go func() { ended <- Shell(t.Context(), c, &ui.Streams{In: tty, Out: tty, Err: tty}, environment()) }()
	eventually(t, "the new size", func() bool { return strings.Contains(screen(), "<now 90x20>") })
	fmt.Fprint(master, "q")
	<-ended
}

func TestExecWithTerminal(t *testing.T) {
	c := newGuest(t, func(g *guest) { g.shell = echoShell }).dial()
	var out bytes.Buffer
	err := Exec(t.Context(), c, &ui.Streams{In: strings.NewReader("hiq"), Out: &out, Err: io.Discard}, []string{"x"}, ExecOptions{TTY: true})
	if exit, ok := errors.AsType[*ExitError](err); !ok || exit.Status() != 5 {
		t.Errorf("error %v, want status 5", err)
	}
	if !strings.Contains(out.String(), "<dumb 80x24>") || !strings.Contains(out.String(), "hi") {
		t.Errorf("output %q", out.String())
	}
}

func TestEscapes(t *testing.T) {
	for _, c := range []struct {
		in, out string
		left    bool
	}{
		{"abc", "abc", false},
		{"~.", "", true},
		{"~~.", "~.", false},
		{"~a", "~a", false},
		{"a\r~.b", "a\r", true},
		{"a~.", "a~.", false},
		{"~\r~.", "~\r", true},
	} {
		left := make(chan struct{})
		got, _ := io.ReadAll(&escapes{r: strings.NewReader(c.in), left: left})
		want(t, c.in, string(got), c.out)
		select {
		case <-left:
			want(t, c.in+": left", true, c.left)
		default:
			want(t, c.in+": left", false, c.left)
		}
	}
}
