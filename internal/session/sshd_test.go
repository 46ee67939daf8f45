package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meros/internal/family"
	"meros/internal/layout"
	"meros/internal/proc"
	"meros/internal/ui"
	"meros/internal/ui/uitest"
)

// asTarget runs OpenSSH's server in a mount namespace where the user of a target
// exists: with root's rights, so that it does all that it does in a guest.
const asTarget = `set -e; [ -z "$3" ] || mount --bind "$3" /bin/sh
mount --bind "$1/passwd" /etc/passwd; mount -t tmpfs run /run; mkdir -m 755 /run/sshd; exec "$2" -D -e -f "$1/config"`

// openSSH is OpenSSH's server as a target, on a port of this host.
type openSSH struct {
	shell string   // the user's login shell
	sh    string   // what /bin/sh is; "": this host's
	lines []string // more for its configuration

	paths  layout.Paths
	target *family.Target
	home   string // of the user in the target
}

// startSSHD runs OpenSSH's server for a user of its own with that login shell. A
// test that root does not run has the user who runs it instead.
func startSSHD(t *testing.T, shell string) *openSSH {
	t.Helper()
	return (&openSSH{shell: shell}).start(t)
}

func (s *openSSH) start(t *testing.T) *openSSH {
	t.Helper()
	sshd, err := proc.Find("sshd")
	if err != nil {
		t.Skip("this host has no sshd: openssh-server is not installed")
	}
	dir, err := os.MkdirTemp("", "sshd-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = removeTree(dir) })
	s.paths, s.home = layout.Paths{Root: t.TempDir()}, filepath.Join(dir, "home")
	s.target = &family.Target{Family: "mos_demo", Name: "box", SharedDir: filepath.Join(s.home, "mos-shared")}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	_ = l.Close()
	s.target.Addr, s.target.SSHPort = at.Addr(), int(at.Port())
	argv := s.configure(t, dir)
	var log bytes.Buffer
	ended := make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		ended <- proc.Host{}.Run(ctx, proc.Cmd{Argv: append(argv, "sh", dir, sshd, s.sh), Stderr: &log})
	}()
	t.Cleanup(func() { stop(); <-ended })
	for range 500 {
		if err = Ready(t.Context(), s.paths, s.target, 10*time.Second, func(Stage) {}); err == nil {
			return s
		}
		select {
		case <-ended:
			ended <- nil
			t.Fatalf("sshd does not run: %s", strings.TrimSpace(log.String()))
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatal(err)
	return nil
}

// configure makes keys, user and configuration, and returns the command that
// starts the server.
func (s *openSSH) configure(t *testing.T, dir string) (argv []string) {
	t.Helper()
	id, err := MakeKeys(s.paths, s.target.FullID())
	if err != nil {
		t.Fatal(err)
	}
	lines := append([]string{
		"HostKey " + s.paths.HostKey(s.target.FullID()), "AuthorizedKeysFile " + dir + "/authorized",
		fmt.Sprintf("ListenAddress %s:%d", s.target.Addr, s.target.SSHPort), "PidFile none", "StrictModes no", "UsePAM no",
		"PasswordAuthentication no", "AcceptEnv LANG LC_*", "Subsystem sftp internal-sftp",
		// as in a guest that meros built
		"X11Forwarding no", "AllowAgentForwarding no", "Ciphers -*-cbc",
		"KexAlgorithms -ecdh-sha2-*,diffie-hellman-group1-*,diffie-hellman-group14-*,diffie-hellman-group-exchange-sha1",
		"MACs -umac-64*,umac-128@openssh.com,hmac-md5*,hmac-sha1*,hmac-sha2-256,hmac-sha2-512",
	}, s.lines...)
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	const uid = 54321
	s.target.User, argv = "target", []string{"unshare", "--mount", "sh", "-c", asTarget}
	if os.Geteuid() != 0 {
		me, err := user.Current()
		if err != nil {
			t.Fatal(err)
		}
		s.target.User, argv = me.Username, []string{"sh", "-c", `exec "$2" -D -e -f "$1/config"`}
	}
	for file, content := range map[string]string{
		"authorized": string(id.AuthorizedKey), "config": strings.Join(lines, "\n") + "\n",
		"passwd": string(passwd) + fmt.Sprintf("target:x:%d:%d::%s:%s\n", uid, uid, s.home, s.shell),
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(s.home, 0o755)); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(s.home, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	return argv
}

func (s *openSSH) dial(t *testing.T) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), s.paths, s.target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestOpenSSH(t *testing.T) {
	s := startSSHD(t, "/bin/bash")
	c := s.dial(t)
	out, errs, code := status(t, c, strings.NewReader("in"), "sh", "-c", `cat; printf %s "$FOO" >&2; exit 9`)
	want(t, "exec", []any{out, errs, code}, []any{"in", "b'ar", 9})
	out, _, _ = status(t, c, nil, append([]string{"printf", `%s\0`}, nasty...)...)
	want(t, "arguments", out, strings.Join(nasty, "\x00")+"\x00")

	wantRoundTrip(t, c, s.paths)
}

func TestOpenSSHSignal(t *testing.T) {
	s := startSSHD(t, "/bin/bash")
	c := s.dial(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	mark := filepath.Join(s.home, "mark")
	_ = Exec(ctx, c, quiet(), []string{"sh", "-c", `trap 'echo > "$1"; exit' INT; while :; do sleep 0.05; done`, "sh", mark}, ExecOptions{})
	eventually(t, "the signal", func() bool { _, err := os.Stat(mark); return err == nil })
}

func TestOpenSSHTerminal(t *testing.T) {
	s := startSSHD(t, "/bin/bash")
	c := s.dial(t)
	_, tty := uitest.OpenPTY(t, 100, 30)
	var out bytes.Buffer
	env := map[string]string{"TERM": "xterm-test", "LC_TIME": "C.UTF-8"}
	err := Exec(t.Context(), c, &ui.Streams{In: tty, Out: &out, Err: &out},
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

// Keys of a terminal mean in the guest what they mean there: jobs are stopped, brought
// back and ended, and it is the guest's shell that does so.
func TestOpenSSHJobs(t *testing.T) {
	s := startSSHD(t, "/bin/bash")
	c := s.dial(t)
	master, tty := uitest.OpenPTY(t, 100, 30)
	screen := seen(master)
	ended := make(chan error, 1)
	go func() {
		ended <- Shell(t.Context(), c, &ui.Streams{In: tty, Out: tty, Err: tty}, environment("TERM=dumb"))
	}()
	from := 0
	step := func(typed, shows string) {
		t.Helper()
		_, _ = io.WriteString(master, typed)
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if at := strings.Index(screen()[from:], shows); at >= 0 {
				from += at + len(shows)
				return
			}
			select {
			case err := <-ended:
				if errors.Is(err, ErrLost) && os.Geteuid() != 0 {
					t.Skip("sshd may not open terminals for this user here")
				}
				t.Fatalf("the shell ended: %v", err)
			default:
			}
			if time.Now().After(end) {
				t.Fatalf("after %q the screen shows %q, want %q", typed, screen()[from:], shows)
			}
		}
	}
	step("PS1=; echo be''gin\r", "begin\r\n")
	step("sh -c 'echo ru''ns; exec sleep 100'\r", "runs\r\n")
	step("\x1a", "Stopped")
	step("jobs\r", "Stopped")
	step("fg\r", "sleep 100")
	time.Sleep(100 * time.Millisecond) // until it is in the foreground
	step("\x03", "^C")
	step("echo st''atus $?; jobs; echo no''ne\r", "status 130\r\nnone\r\n")
	_, _ = io.WriteString(master, "exit 5\r")
	if err := <-ended; fmt.Sprint(err) != "exit status 5" {
		t.Errorf("error %v, want status 5", err)
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
