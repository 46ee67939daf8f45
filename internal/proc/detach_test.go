package proc_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"meros/internal/proc"
)

func TestDetachReturnsOnceTheProgramSaysSo(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	said, err := proc.Detach(proc.Cmd{Argv: []string{"sh", "-c", `echo up >&3; exec 3>&-; sleep 0.3; echo > "$1"`, "sh", mark}})
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
	_, err := proc.Detach(proc.Cmd{Argv: []string{"sh", "-c", "exit 7"}})
	exit, ok := errors.AsType[*proc.ExitError](err)
	if !ok || exit.Code != 7 {
		t.Errorf("Detach = %v, want exit status 7", err)
	}
	if _, err := proc.Detach(proc.Cmd{Argv: []string{"no-such-program-of-meros"}}); !errors.Is(err, proc.ErrNotFound) {
		t.Errorf("Detach = %v, want ErrNotFound", err)
	}
}
