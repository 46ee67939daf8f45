package session

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"meros/internal/ui"
)

// status runs a command and returns its streams and exit status.
func status(t *testing.T, c *Conn, in io.Reader, argv ...string) (out, errs string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	err := Exec(t.Context(), c, &ui.Streams{In: in, Out: &o, Err: &e}, argv, ExecOptions{Env: []string{"FOO=b'ar"}})
	if exit, ok := errors.AsType[*ExitError](err); ok {
		return o.String(), e.String(), exit.Status()
	}
	if err != nil {
		t.Fatalf("Exec(%q): %v", argv, err)
	}
	return o.String(), e.String(), 0
}

func TestExec(t *testing.T) {
	c := newGuest(t, nil).dial()
	for _, k := range []struct {
		in        string
		argv      []string
		out, errs string
		code      int
	}{
		{"", []string{"echo", "a  b", "$HOME"}, "a  b $HOME\n", "", 0},
		{"", []string{"sh", "-c", "echo out; echo err >&2; exit 7"}, "out\n", "err\n", 7},
		{"", []string{"sh", "-c", `printf '\033[31m%s' "$FOO"`}, "\x1b[31mb'ar", "", 0},
		{"line\n", []string{"cat"}, "line\n", "", 0},
		{strings.Repeat("x", 1<<20), []string{"wc", "-c"}, "1048576\n", "", 0},
	} {
		out, errs, code := status(t, c, strings.NewReader(k.in), k.argv...)
		want(t, strings.Join(k.argv, " "), []any{out, errs, code}, []any{k.out, k.errs, k.code})
	}
	_, errs, code := status(t, c, nil, "no-such-program")
	if code != 127 || errs == "" {
		t.Errorf("no such program: status %d, %q, want 127", code, errs)
	}
}

func TestExecLeavesEndlessInput(t *testing.T) {
	c := newGuest(t, nil).dial()
	r, w := io.Pipe()
	defer w.Close()
	within(t, 3*time.Second, "exec", func() {
		_, _, code := status(t, c, r, "sh", "-c", "exit 3")
		want(t, "status", code, 3)
	})
}

func TestExecCancelled(t *testing.T) {
	g := newGuest(t, nil)
	c := g.dial()
	ctx, cancel := context.WithCancel(t.Context())
	mark := g.home + "/mark"
	go func() {
		for _, err := os.Stat(mark + "0"); err != nil; _, err = os.Stat(mark + "0") {
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
	}()
	script := `trap 'echo INT > mark; exit 9' INT; echo > mark0; while :; do sleep 0.05; done`
	within(t, 6*time.Second, "exec", func() {
		err := Exec(ctx, c, quiet(), []string{"sh", "-c", script}, ExecOptions{})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want the context's", err)
		}
	})
	eventually(t, "the signal in the guest", func() bool { _, err := os.Stat(mark); return err == nil })
}

// What heeds neither SIGINT nor SIGTERM is ended as well.
func TestExecCancelledUnheeded(t *testing.T) {
	g := newGuest(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	pid := g.home + "/pid"
	go func() {
		for _, err := os.Stat(pid); err != nil; _, err = os.Stat(pid) {
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
	}()
	script := `trap "" INT TERM; echo $$ >pid.new; mv pid.new pid; while :; do sleep 0.05; done`
	within(t, 8*time.Second, "exec", func() {
		if err := Exec(ctx, g.dial(), quiet(), []string{"sh", "-c", script}, ExecOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want the context's", err)
		}
	})
	number, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "its end", func() bool { _, err := os.Stat("/proc/" + strings.TrimSpace(string(number))); return err != nil })
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestExecOutputFails(t *testing.T) {
	c := newGuest(t, nil).dial()
	within(t, 5*time.Second, "exec", func() {
		err := Exec(t.Context(), c, &ui.Streams{Out: broken{}, Err: io.Discard}, []string{"yes"}, ExecOptions{})
		if err == nil || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("error %v, want disk full", err)
		}
	})
}

func TestStatusOfStrangeGuests(t *testing.T) {
	for _, k := range []struct {
		name  string
		shell func(ch ssh.Channel, reqs chan event)
		code  int
	}{
		{"256", func(ch ssh.Channel, _ chan event) { sendStatus(ch, 256) }, 255},
		{"huge", func(ch ssh.Channel, _ chan event) { sendStatus(ch, 1<<32-1) }, 255},
		{"killed", func(ch ssh.Channel, _ chan event) { sendSignal(ch, "KILL") }, 137},
		{"unknown signal", func(ch ssh.Channel, _ chan event) { sendSignal(ch, "\x1b[31m") }, 128},
	} {
		t.Run(k.name, func(t *testing.T) {
			c := newGuest(t, func(g *guest) { g.shell = k.shell }).dial()
			err := Exec(t.Context(), c, quiet(), []string{"x"}, ExecOptions{})
			exit, ok := errors.AsType[*ExitError](err)
			if !ok || exit.Status() != k.code || strings.ContainsRune(err.Error(), 0x1b) {
				t.Errorf("error %v, want status %d", err, k.code)
			}
		})
	}
	c := newGuest(t, func(g *guest) { g.shell = func(ssh.Channel, chan event) {} }).dial()
	if err := Exec(t.Context(), c, quiet(), []string{"x"}, ExecOptions{}); !errors.Is(err, ErrLost) {
		t.Errorf("no status: error %v, want ErrLost", err)
	}
}

func TestShellWithoutTerminal(t *testing.T) {
	c := newGuest(t, nil).dial()
	var out bytes.Buffer
	err := Shell(t.Context(), c, &ui.Streams{In: strings.NewReader("echo hi; exit 4\n"), Out: &out, Err: io.Discard}, os.Getenv)
	exit, ok := errors.AsType[*ExitError](err)
	if !ok || exit.Status() != 4 || out.String() != "hi\n" {
		t.Errorf("output %q, error %v, want hi and status 4", out.String(), err)
	}
}
