package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"meros/internal/family"
	"meros/internal/layout"
	"meros/internal/ui"
)

// masters is the host's side of tests with masters: they run in this process.
type masters struct {
	paths   layout.Paths
	target  *family.Target
	getenv  func(string) string
	run     string
	started int
	ended   chan error
	ctx     context.Context // ends those that are left
	wait    MasterTimes
}

func newMasters(t *testing.T, paths layout.Paths, target *family.Target) *masters {
	t.Helper()
	run, err := os.MkdirTemp("/tmp", "mm") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	return &masters{ctx: ctx, paths: paths, target: target, run: run, getenv: environment("XDG_RUNTIME_DIR=" + run), ended: make(chan error, 10), wait: MasterTimes{Idle: time.Minute, Pause: 20 * time.Millisecond}}
}

func (m *masters) spawn(t *family.Target, tcp *os.File) (string, error) {
	m.started++
	conn, err := net.FileConn(tcp)
	if err != nil {
		return "", err
	}
	said := make(chan string, 2)
	go func() {
		err := Master(m.ctx, m.paths, t, m.getenv, conn, m.wait, func(word string) { said <- word })
		said <- ""
		m.ended <- err
	}()
	return <-said, nil
}

func (m *masters) dial(t *testing.T) *Conn {
	t.Helper()
	c, err := DialShared(t.Context(), m.paths, m.target, m.getenv, m.spawn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (m *masters) wantEnd(t *testing.T) {
	t.Helper()
	select {
	case err := <-m.ended:
		if err != nil {
			t.Errorf("the master ended with %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the master does not end")
	}
	wantEmpty(t, m.run)
}

func TestMasterServesMany(t *testing.T) {
	g := newGuest(t, nil)
	m := newMasters(t, g.paths, g.target)
	m.wait.Idle = 300 * time.Millisecond
	for range 3 {
		c := m.dial(t)
		out, errs, code := status(t, c, strings.NewReader("in"), "sh", "-c", `cat; printf %s "$FOO" >&2; exit 9`)
		want(t, "exec", []any{out, errs, code}, []any{"in", "b'ar", 9})
		_ = c.Close()
	}
	want(t, "masters started", m.started, 1)
	g.mu.Lock()
	logins := len(g.conns)
	g.mu.Unlock()
	want(t, "logins", logins, 1)
	c := m.dial(t)
	wantRoundTrip(t, c, g.paths)
	for _, file := range names(t, m.run) {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v, %v", file, info.Mode(), err)
		}
	}
	_ = c.Close()
	m.wantEnd(t)
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	_ = filepath.WalkDir(dir, func(path string, _ os.DirEntry, _ error) error {
		if path != dir {
			files = append(files, path)
		}
		return nil
	})
	return files
}

func TestMasterEndsWithItsGuest(t *testing.T) {
	g := newGuest(t, nil)
	m := newMasters(t, g.paths, g.target)
	c := m.dial(t)
	started := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- Exec(t.Context(), c, quiet(), []string{"sleep", "100"}, ExecOptions{Started: func() { close(started) }})
	}()
	<-started
	g.mu.Lock()
	for _, conn := range g.conns {
		_ = conn.Close()
	}
	g.mu.Unlock()
	if err := <-ended; !errors.Is(err, ErrLost) {
		t.Errorf("Exec = %v, want ErrLost", err)
	}
	m.wantEnd(t)
}

func TestMasterIsNotUsedAfterAChangeOfKeys(t *testing.T) {
	g := newGuest(t, nil)
	m := newMasters(t, g.paths, g.target)
	m.dial(t)
	other, err := os.ReadFile(g.paths.ClientKey("mos_demo-box") + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.paths.HostKey("mos_demo-box")+".pub", other, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = DialShared(t.Context(), g.paths, g.target, m.getenv, m.spawn)
	if !errors.Is(err, ErrHostKey) {
		t.Errorf("DialShared = %v, want ErrHostKey", err)
	}
}

// sshd takes ten sessions on a connection, unless told otherwise: those beyond have
// one of their own.
func TestMasterBeyondMaxSessions(t *testing.T) {
	s := startSSHD(t, "/bin/bash")
	m := newMasters(t, s.paths, s.target)
	m.dial(t) // starts the master
	in, ended := io.Pipe()
	results := make(chan string, 12)
	for range cap(results) {
		c := m.dial(t)
		go func() {
			var out bytes.Buffer
			err := Exec(t.Context(), c, &ui.Streams{In: in, Out: &out, Err: &out}, []string{"sh", "-c", "cat; exit 7"}, ExecOptions{})
			results <- fmt.Sprint(out.String(), err)
		}()
	}
	eventually(t, "twelve commands", func() bool { return len(childrenNamed(s, "cat")) == cap(results) })
	c := m.dial(t)
	var out bytes.Buffer
	err := Exec(t.Context(), c, &ui.Streams{Out: &out, Err: &out}, []string{"echo", "2"}, ExecOptions{TTY: true, Getenv: environment("LANG=C")})
	want(t, "a terminal", []any{out.String(), err}, []any{"2\r\n", nil})
	tree := pushedTree(t)
	for range 2 {
		if _, _, err := Push(t.Context(), c, quiet(), []string{tree}, PushOptions{Checksum: true}); err != nil {
			t.Errorf("push: %v", err)
		}
	}
	if _, err := Pull(t.Context(), c, s.paths, quiet(), PullOptions{}); err != nil {
		t.Errorf("pull: %v", err)
	}
	_ = ended.Close()
	for range cap(results) {
		want(t, "a command", <-results, "exit status 7")
	}
	want(t, "masters started", m.started, 1)
}

// childrenNamed returns the processes of a target's user with that name.
func childrenNamed(s *openSSH, name string) []string {
	all, _ := filepath.Glob("/proc/[0-9]*/comm")
	return slices.DeleteFunc(all, func(file string) bool {
		comm, _ := os.ReadFile(file)
		environ, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "environ"))
		return string(comm) != name+"\n" || !bytes.Contains(environ, []byte("HOME="+s.home+"\x00"))
	})
}

func TestMasterWithATerminal(t *testing.T) {
	g := newGuest(t, nil)
	c := newMasters(t, g.paths, g.target).dial(t)
	var out bytes.Buffer
	err := Exec(t.Context(), c, &ui.Streams{Out: &out, Err: &out}, []string{"printf", "hi"}, ExecOptions{TTY: true, Getenv: environment()})
	if err != nil || out.String() != "hi" {
		t.Errorf("Exec = %q, %v", out.String(), err)
	}
}

func TestDialSharedWithoutARuntimeFolder(t *testing.T) {
	g := newGuest(t, nil)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	getenv := environment("XDG_RUNTIME_DIR=" + dir)
	run, err := g.paths.Runtime(getenv)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(run, 0o777); err != nil { // somebody else's, it seems
		t.Fatal(err)
	}
	c, err := DialShared(t.Context(), g.paths, g.target, getenv, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

// What masters leave that were killed, before they listened or while, is removed.
func TestEndMastersRemovesADeadSocket(t *testing.T) {
	g := newGuest(t, nil)
	m := newMasters(t, g.paths, g.target)
	run, err := g.paths.Runtime(m.getenv)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(run, "mos_demo-box.m1234abcd"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	for _, lock := range []string{"mos_demo-box.l1234abcd", "mos_demo-other.l5678abcd"} {
		if err := os.WriteFile(filepath.Join(run, lock), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := EndMasters(t.Context(), g.paths, m.getenv, func(string) bool { return true }); err != nil {
		t.Error(err)
	}
	wantEmpty(t, m.run)
}
