package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"meros/internal/family"
	"meros/internal/layout"
	"meros/internal/proc"
	"meros/internal/ui"
)

// startSSHD runs the host's own OpenSSH server as a target, for the user who
// runs the tests.
func startSSHD(t *testing.T) (layout.Paths, *family.Target) {
	t.Helper()
	sshd, err := proc.Find("sshd")
	if err != nil {
		t.Skip("this host has no sshd")
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir, paths := t.TempDir(), layout.Paths{Root: t.TempDir()}
	t.Cleanup(func() { _ = removeTree(filepath.Join(dir, "mos-shared")) })
	target := &family.Target{Family: "mos_demo", Name: "box", User: me.Username, SharedDir: filepath.Join(dir, "mos-shared")}
	id, err := MakeKeys(paths, target.FullID())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "authorized"), id.AuthorizedKey, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	_ = l.Close()
	target.Addr, target.SSHPort = at.Addr(), int(at.Port())
	config := filepath.Join(dir, "config")
	lines := fmt.Sprintf("HostKey %s\nAuthorizedKeysFile %s/authorized\nListenAddress %s\nPidFile none\nStrictModes no\nUsePAM no\n"+
		"PasswordAuthentication no\nPermitRootLogin prohibit-password\nAcceptEnv LANG LC_*\nSubsystem sftp internal-sftp\n",
		paths.HostKey(target.FullID()), dir, at)
	if err := os.WriteFile(config, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	ended := make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		ended <- proc.Host{}.Run(ctx, proc.Cmd{Argv: []string{sshd, "-D", "-e", "-f", config}, Stderr: &log})
	}()
	t.Cleanup(func() { stop(); <-ended })
	for range 50 {
		err = Ready(t.Context(), paths, target, 2*time.Second, func(Stage) {})
		if err == nil {
			return paths, target
		}
		select {
		case <-ended:
			ended <- nil
			t.Skipf("sshd does not run here: %s", strings.TrimSpace(log.String()))
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatal(err)
	return paths, nil
}

func TestOpenSSH(t *testing.T) {
	paths, target := startSSHD(t)
	c, err := Dial(t.Context(), paths, target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	out, errs, code := status(t, c, strings.NewReader("in"), "sh", "-c", `cat; printf %s "$FOO" >&2; exit 9`)
	want(t, "exec", []any{out, errs, code}, []any{"in", "b'ar", 9})
	out, _, _ = status(t, c, nil, append([]string{"printf", `%s\0`}, nasty...)...)
	want(t, "arguments", out, strings.Join(nasty, "\x00")+"\x00")

	tree := filepath.Join(t.TempDir(), "tree")
	makeTree(t, tree)
	if _, _, err := Push(t.Context(), c, quiet(), []string{tree}, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Pull(t.Context(), c, paths, quiet(), PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(describe(t, tree, pulledMode), describe(t, filepath.Join(paths.Shared("mos_demo-box"), "tree"), pulledMode)); d != "" {
		t.Errorf("pulled (-want +got):\n%s", d)
	}
}

func TestOpenSSHSignal(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("sshd passes no signals on to root's sessions")
	}
	paths, target := startSSHD(t)
	c, err := Dial(t.Context(), paths, target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	mark := filepath.Join(t.TempDir(), "mark")
	_ = Exec(ctx, c, quiet(), []string{"sh", "-c", `trap 'echo > "$1"; exit' INT; while :; do sleep 0.05; done`, "sh", mark}, ExecOptions{})
	eventually(t, "the signal", func() bool { _, err := os.Stat(mark); return err == nil })
}

func TestOpenSSHTerminal(t *testing.T) {
	paths, target := startSSHD(t)
	c, err := Dial(t.Context(), paths, target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, tty := openPTY(t)
	var out bytes.Buffer
	env := map[string]string{"TERM": "xterm-test", "LC_TIME": "C.UTF-8"}
	err = Exec(t.Context(), c, &ui.Streams{In: tty, Out: &out, Err: &out},
		[]string{"sh", "-c", "echo $TERM $LC_TIME; stty size; test -t 0 && exit 6"},
		ExecOptions{TTY: true, Getenv: func(k string) string { return env[k] }})
	if errors.Is(err, ErrLost) && os.Geteuid() != 0 {
		t.Skip("sshd may not open terminals for this user here")
	}
	want(t, "output", out.String(), "xterm-test C.UTF-8\r\n30 100\r\n")
	if fmt.Sprint(err) != "exit status 6" {
		t.Errorf("error %v, want status 6", err)
	}
}

func TestOpenSSHReadsOurKeys(t *testing.T) {
	keygen, err := proc.Find("ssh-keygen")
	if err != nil {
		t.Skip("this host has no ssh-keygen")
	}
	paths := layout.Paths{Root: t.TempDir()}
	id, err := MakeKeys(paths, "mos_demo-box")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := (proc.Host{}).Run(t.Context(), proc.Cmd{Argv: []string{keygen, "-y", "-f", paths.ClientKey("mos_demo-box")}, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if !sameKey(out.Bytes(), id.AuthorizedKey) {
		t.Errorf("ssh-keygen says %q, want %q", out.String(), id.AuthorizedKey)
	}
}
