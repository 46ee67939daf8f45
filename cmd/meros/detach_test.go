package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"meros/internal/layout"
	"meros/internal/proc"
)

// process runs meros as a process of its own, which started learns of.
func process(t *testing.T, root string, started func(pid int), args ...string) call {
	t.Helper()
	var out, errs bytes.Buffer
	err := proc.Host{}.Run(t.Context(), proc.Cmd{
		Argv: append([]string{"meros", "--root", root}, args...), Stdout: &out, Stderr: &errs,
		Started: func(pid int) error { started(pid); return nil },
	})
	status := 0
	if exit, ok := errors.AsType[*proc.ExitError](err); ok {
		status = exit.Code
	} else if err != nil {
		t.Fatal(err)
	}
	return call{status, out.String(), errs.String()}
}

func anyway(int) {}

func TestDetachedRunsHaveLogsOfTheirOwn(t *testing.T) {
	root, guests := testGuests(t, "a-t")
	stop := filepath.Join(guests[0].Home, "stop")
	for i := range 2 {
		script := fmt.Sprintf("echo begin%d; until [ -e stop ]; do sleep 0.05; done; echo end%d", i, i)
		wantCall(t, "run", process(t, root, anyway, "run", "a-t", "--no-master", "--display", "none", "--detach", "sh", "-c", script), 0, "", "")
	}
	if err := os.WriteFile(stop, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	paths := layout.Paths{Root: root}
	for name, want := range map[string]string{"run-a-t": "begin1\nend1\n", "run-a-t.1": "begin0\nend0\n"} {
		var log []byte
		for range 200 {
			if log, _ = os.ReadFile(paths.Log(name)); string(log) == want {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if string(log) != want {
			t.Errorf("the log %s holds %q, want %q", name, log, want)
		}
	}
}

// Ctrl-C ends a detached run that has not started its program yet.
func TestDetachIsInterrupted(t *testing.T) {
	root, guests := testGuests(t, "a-t")
	l, err := net.Listen("tcp", guests[0].Addr.Addr().String()+":0") // takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	moveGuest(t, root, guests[0].Addr.Port(), l.Addr())
	pid := make(chan int, 1)
	go func() {
		if _, err := l.Accept(); err == nil {
			_ = syscall.Kill(<-pid, syscall.SIGINT)
		}
	}()
	began := time.Now()
	got := process(t, root, func(p int) { pid <- p }, "run", "a-t", "--no-master", "--display", "none", "--detach", "true")
	if took := time.Since(began); got.status != 130 || took > 10*time.Second {
		t.Errorf("it took %s: %+v", took, got)
	}
}

// moveGuest has the recipe of a-t name the port of another address.
func moveGuest(t *testing.T, root string, port uint16, to net.Addr) {
	t.Helper()
	file := filepath.Join(root, "conf", "target", "a", "build", "t.xml")
	recipe, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	moved := strings.ReplaceAll(string(recipe), fmt.Sprintf(`"%d"`, port), fmt.Sprintf(`"%d"`, to.(*net.TCPAddr).Port))
	if err := os.WriteFile(file, []byte(moved), 0o644); err != nil {
		t.Fatal(err)
	}
}
