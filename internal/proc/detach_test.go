package proc_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"meros/internal/proc"
)

func TestDetachReturnsOnceTheProgramSaysSo(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	said, err := proc.Detach(t.Context(), proc.Cmd{Argv: []string{"sh", "-c", `echo up >&3; exec 3>&-; sleep 0.3; echo > "$1"`, "sh", mark}})
	if said != "up\n" || err != nil {
		t.Errorf("Detach = %q, %v, want up", said, err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("Detach waited for the program's end")
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(mark); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the program did not go on")
		}
	}
}

func TestDetachOfAProgramThatFails(t *testing.T) {
	_, err := proc.Detach(t.Context(), proc.Cmd{Argv: []string{"sh", "-c", "exit 7"}})
	exit, ok := errors.AsType[*proc.ExitError](err)
	if !ok || exit.Code != 7 {
		t.Errorf("Detach = %v, want exit status 7", err)
	}
	if _, err := proc.Detach(t.Context(), proc.Cmd{Argv: []string{"no-such-program-of-meros"}}); !errors.Is(err, proc.ErrNotFound) {
		t.Errorf("Detach = %v, want ErrNotFound", err)
	}
}

func TestDetachEndsTheProgramWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ready, mark := filepath.Join(t.TempDir(), "ready"), filepath.Join(t.TempDir(), "mark")
	go func() {
		for _, err := os.Stat(ready); err != nil; _, err = os.Stat(ready) {
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
	}()
	const script = `trap 'echo >"$2"; exit 0' TERM; echo >"$1"; while :; do sleep 0.05; done`
	said, err := proc.Detach(ctx, proc.Cmd{Argv: []string{"sh", "-c", script, "sh", ready, mark}})
	if said != "" || !errors.Is(err, context.Canceled) {
		t.Errorf("Detach = %q, %v, want the context's end", said, err)
	}
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("the program was not let end by itself: %v", err)
	}
}
