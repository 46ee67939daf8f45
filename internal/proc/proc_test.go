package proc_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"meros/internal/proc"
)

func TestRunStreamsAndStatus(t *testing.T) {
	var out, errs bytes.Buffer
	err := proc.Host{}.Run(t.Context(), proc.Cmd{
		Argv:  []string{"sh", "-c", "cat; echo oops >&2; exit 3"},
		Stdin: strings.NewReader("in"), Stdout: &out, Stderr: &errs,
	})
	exit, ok := errors.AsType[*proc.ExitError](err)
	if !ok || exit.Code != 3 || exit.Stderr != "oops\n" {
		t.Fatalf("Run = %#v, want exit status 3 with its words", err)
	}
	if out.String() != "in" || errs.String() != "oops\n" {
		t.Errorf("stdout %q, stderr %q, want in, oops", out.String(), errs.String())
	}
	if got, want := err.Error(), "sh: exit status 3: oops"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
}

func TestRunMissingProgram(t *testing.T) {
	err := proc.Host{}.Run(t.Context(), proc.Cmd{Argv: []string{"no-such-program-of-meros"}})
	if !errors.Is(err, proc.ErrNotFound) || strings.Count(err.Error(), "no-such-program") != 1 {
		t.Errorf("Run = %v, want ErrNotFound that names the program once", err)
	}
	if _, err := proc.Find("no-such-program-of-meros"); !errors.Is(err, proc.ErrNotFound) {
		t.Errorf("Find = %v, want ErrNotFound", err)
	}
}

func TestCancelEndsTheWholeGroup(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, cancel)
	started := time.Now()
	err := proc.Host{}.Run(ctx, proc.Cmd{Argv: []string{"sh", "-c", "sleep 1000 & wait"}, Stdout: &bytes.Buffer{}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want context.Canceled", err)
	}
	// Had the sleep lived on, it would hold the output open.
	if took := time.Since(started); took > 4*time.Second {
		t.Errorf("Run returned after %v: a child of the program outlived it", took)
	}
}

func TestSignalIsTold(t *testing.T) {
	err := proc.Host{}.Run(t.Context(), proc.Cmd{Argv: []string{"sh", "-c", "kill -TERM $$"}})
	exit, ok := errors.AsType[*proc.ExitError](err)
	if !ok || exit.Signal != syscall.SIGTERM {
		t.Errorf("Run = %#v, want ended by SIGTERM", err)
	}
}

func TestStderrTailIsBounded(t *testing.T) {
	err := proc.Host{}.Run(t.Context(), proc.Cmd{Argv: []string{"sh", "-c", "yes x | head -c 100000 >&2; echo last >&2; exit 1"}})
	exit, ok := errors.AsType[*proc.ExitError](err)
	if !ok || len(exit.Stderr) != 4<<10 || !strings.HasSuffix(exit.Stderr, "last\n") {
		t.Errorf("Run kept %d bytes, want the last 4096", len(exit.Stderr))
	}
}

func TestStartedErrorKillsTheChild(t *testing.T) {
	stop := errors.New("stop")
	err := proc.Host{}.Run(t.Context(), proc.Cmd{Argv: []string{"sleep", "1000"}, Started: func(int) error { return stop }})
	if !errors.Is(err, stop) {
		t.Errorf("Run = %v, want the error of Started", err)
	}
}

func TestProcessLeftBehindIsTold(t *testing.T) {
	var errs bytes.Buffer
	err := proc.Host{}.Run(t.Context(), proc.Cmd{Argv: []string{"sh", "-c", "sleep 8 & echo done >&2"}, Stderr: &errs})
	if !errors.Is(err, proc.ErrLeftBehind) || errs.String() != "done\n" {
		t.Errorf("Run = %v, stderr %q, want ErrLeftBehind and all that was said", err, errs.String())
	}
	err = proc.Host{}.Run(t.Context(), proc.Cmd{Argv: []string{"sh", "-c", "sleep 8 & exit 3"}})
	if exit, ok := errors.AsType[*proc.ExitError](err); !ok || exit.Code != 3 {
		t.Errorf("Run = %v, want exit status 3", err)
	}
}
