package session

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"meros/internal/proc"
	"meros/internal/ui"
)

// outcome is all that a command's caller sees.
type outcome struct{ Out, Errs, End string }

// differs is what differs between any two connections, or any two sessions.
var differs = regexp.MustCompile(`127\.0\.0\.1 \d+|pipe:\[\d+\]`)

func outcomeOf(t *testing.T, c *Conn, in string, argv ...string) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	err := Exec(t.Context(), c, &ui.Streams{In: strings.NewReader(in), Out: &out, Err: &errs}, argv, ExecOptions{Env: []string{"FOO=b'ar"}})
	said := differs.ReplaceAllString(out.String(), "N")
	if filepath.Base(argv[0]) == "env" { // the order of variables says nothing
		said = strings.Join(slices.Sorted(strings.SplitSeq(said, "\n")), "\n")
	}
	return outcome{said, errs.String(), fmt.Sprint(err)}
}

// waitingProcesses returns the processes that wait for a command line in the target,
// which are processes of this host.
func waitingProcesses(s *openSSH) []string {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	return slices.DeleteFunc(all, func(file string) bool {
		line, _ := os.ReadFile(file)
		environ, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "environ"))
		return bytes.HasPrefix(line, []byte("sshd")) || !bytes.Contains(line, []byte("IFS= read -r meros_name")) || !bytes.Contains(environ, []byte("HOME="+s.home+"\x00"))
	})
}

// loginShells are the ones of this host, with what /bin/sh is.
func loginShells(t *testing.T) []*openSSH {
	t.Helper()
	var shells []*openSSH
	for _, name := range []string{"bash", "sh", "dash", "zsh", "mksh", "fish", "tcsh"} {
		if path, err := proc.Find(name); err == nil {
			shells = append(shells, &openSSH{shell: path})
		}
	}
	bash, err := proc.Find("bash")
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := proc.Find("busybox")
	if err != nil || os.Geteuid() != 0 {
		return shells
	}
	ash := filepath.Join(t.TempDir(), "ash")
	if err := os.Symlink(busybox, ash); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(filepath.Dir(ash)), 0o755); err != nil {
		t.Fatal(err)
	}
	path := []string{"SetEnv PATH=" + filepath.Dir(ash) + ":/usr/bin:/bin"}
	return append(shells, &openSSH{shell: ash, sh: busybox, lines: path}, &openSSH{shell: bash, sh: bash}, &openSSH{shell: bash, sh: busybox})
}

var everyByte = func() string {
	var all []byte
	for b := 1; b < 256; b++ {
		if b != '\n' {
			all = append(all, byte(b))
		}
	}
	return string(all)
}()

// commandsOf show all that a command can tell of how it was started.
var commandsOf = [][]string{
	{"true"},
	{"env"},
	{"printf", `%s\0`, "a\nb\n", "\n"},
	append([]string{"printf", `%s\0`, everyByte, everyByte + " ", " " + everyByte + `\`}, slices.DeleteFunc(slices.Clone(nasty), func(s string) bool { return strings.Contains(s, "\n") })...),
	{"printf", "%s", strings.Repeat("x", maxAhead)},
	{"cat"},
	{"head", "-c", "1"},
	{"sh", "-c", `read -r line; printf %s. "$line"; cat`},
	{"no-such-program"},
	{"/no/such/program"},
	{"/usr/bin/env"},
	{"/bin/sh", "-c", "kill -KILL $$"},
	{"mine", "a b"}, // a function of .bashrc
	{"id", "-un"},   // and one with the name of a program that was called before
	{"test", "-e", "/"},
	{"exec", "echo", "1"},
	{"unset", "HOME"},
	{"A=1"},
	{"-x"},
	{"/"},
	{"false"},
	{"sh", "-c", "exit 77"},
	{"sh", "-c", "kill -TERM $$"},
	{"sh", "-c", "kill -KILL $$"},
	{"pwd"},
	{"umask"},
	{"cd", "/no-such-folder"},
	{"export"},
	{"command", "-V", "ls"},
	{"sh", "-c", `cat "/proc/$PPID/cmdline"`},
	{"sh", "-c", `ulimit -a; ls -l /proc/self/fd | sed 's/.*[0-9] \([0-9]* ->\)/\1/; s/\/proc\/[0-9]*/P/'`},
	{"sh", "-c", "grep -E '^(SigPnd|SigBlk|SigIgn|SigCgt|Uid|Gid|Groups|Umask|NoNewPrivs)' /proc/self/status; cat /proc/$PPID/comm"},
	{"awk", "{ print ($1 == $5), ($1 == $6), $7 }", "/proc/self/stat"},
}

// What meros itself asks for is taken for plain, so that the user's shell becomes the
// program; what a shell would make something of is not.
func TestPlain(t *testing.T) {
	var words []string
	for _, word := range append([]string{everyByte}, nasty...) {
		if !strings.Contains(word, "\n") {
			words = append(words, word)
		}
	}
	line, err := commandLine(append([]string{"/bin/printf"}, words...), []string{"A=" + everyByte, "B="})
	if err != nil {
		t.Fatal(err)
	}
	before, after, _ := strings.Cut(line, "'/bin/printf'")
	want(t, "lines", forReader(line), "/bin/printf\n"+before+"\n'/bin/printf'"+after+"\n")
	for _, line := range []string{
		"true", "'true' $(id)", "'true'; id", "'true' | cat", "'true' >'a'", "'true' 'a", "A=1 'true'", "A='1'", "''", "'a b'", "'a'b",
		"'true' \"a\"", "'true' `id`", "'true' &", "PATH='/x' 'true'", "A='1' PATH='/x' 'true'", "'true'  'a'", "'true' \\",
	} {
		want(t, line, forReader(line), "\n\n"+line+"\n")
	}
}

// A command that a waiting process runs sees, and shows, nothing else than one that
// sshd starts.
func TestAheadIsAsSSHD(t *testing.T) {
	for _, s := range loginShells(t) {
		name := filepath.Base(s.shell)
		t.Run(name+", sh "+filepath.Base(s.sh), func(t *testing.T) {
			s.start(t)
			testAheadIsAsSSHD(t, s, name == "bash" || name == "sh" || name == "dash" || name == "ash")
		})
	}
}

func testAheadIsAsSSHD(t *testing.T, s *openSSH, waits bool) {
	words := "export RC=$RC.\nPATH=$PATH:/rc\nset_by_rc=1\numask 027\ncd /\nalias ls=false\n" +
		"mine() { echo \"mine $1\"; return 3; }\nid >/dev/null\nid() { echo mine; }\n"
	for _, rc := range []string{".bashrc", ".zshenv", ".profile", ".mkshrc"} {
		if err := os.WriteFile(filepath.Join(s.home, rc), []byte(words), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	plain, m := s.dial(t), newMasters(t, s.paths, s.target)
	warm := m.dial(t)
	outcomeOf(t, warm, "", "true")
	script := filepath.Join(s.home, "script")
	if err := os.WriteFile(script, []byte("echo $0 $1; exit 4\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, argv := range append(slices.Clone(commandsOf), []string{script, "a b"}) {
		if waits {
			eventually(t, "a process that waits", func() bool { return len(waitingProcesses(s)) == 1 })
		}
		in := everyByte + "\nin\nput"
		if d := cmp.Diff(outcomeOf(t, plain, in, argv...), outcomeOf(t, warm, in, argv...)); d != "" {
			t.Errorf("%.80q (-sshd +waiting):\n%s", argv, d)
		}
	}
	if !waits {
		want(t, "processes that wait", len(waitingProcesses(s)), 0)
	}
	_, _, _ = warm.client.SendRequest(endRequest, true, nil)
	m.wantEnd(t)
	eventually(t, "no process that waits", func() bool { return len(waitingProcesses(s)) == 0 })
}

// Signals reach a command that a waiting process runs.
func TestAheadSignal(t *testing.T) {
	s := startSSHD(t, "/bin/bash")
	c := newMasters(t, s.paths, s.target).dial(t)
	outcomeOf(t, c, "", "true")
	eventually(t, "a process that waits", func() bool { return len(waitingProcesses(s)) == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	mark := filepath.Join(s.home, "mark")
	_ = Exec(ctx, c, quiet(), []string{"sh", "-c", `trap 'echo > "$1"; exit' INT; while :; do sleep 0.05; done`, "sh", mark}, ExecOptions{})
	eventually(t, "the signal", func() bool { _, err := os.Stat(mark); return err == nil })
}

// What waits makes room where the target has few sessions. sshd itself frees one a
// moment after it told its end.
func TestAheadMakesRoom(t *testing.T) {
	s := (&openSSH{shell: "/bin/bash", lines: []string{"MaxSessions 2"}}).start(t)
	c := newMasters(t, s.paths, s.target).dial(t)
	waits := func() bool { return len(waitingProcesses(s)) == 1 }
	eventually(t, "a process that waits", waits)
	time.Sleep(300 * time.Millisecond) // the master hears of it
	in, ended := io.Pipe()
	first, started := make(chan error, 1), make(chan struct{})
	go func() {
		first <- Exec(t.Context(), c, &ui.Streams{In: in, Out: io.Discard, Err: io.Discard}, []string{"cat"}, ExecOptions{Started: func() { close(started) }})
	}()
	<-started // in that process
	outcomeOf(t, c, "", "true")
	eventually(t, "a process that waits", waits)
	for range 3 {
		eventually(t, "a terminal", func() bool {
			var out bytes.Buffer
			err := Exec(t.Context(), c, &ui.Streams{Out: &out, Err: &out}, []string{"echo", "2"}, ExecOptions{TTY: true, Getenv: environment()})
			return err == nil && out.String() == "2\r\n"
		})
		eventually(t, "no process that waits", func() bool { return len(waitingProcesses(s)) == 0 })
	}
	_ = ended.Close()
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// A guest that answers before it was asked, or never, is asked as ever.
func TestAheadOfAHostileGuest(t *testing.T) {
	mark := regexp.MustCompile(`echo ([A-Z2-7]{20,}) `)
	said := func(ch ssh.Channel, line string) {
		word := mark.FindStringSubmatch(line)[1] + "\n"
		_, _ = io.WriteString(ch, word)
		_, _ = io.WriteString(ch.Stderr(), word)
	}
	for name, early := range map[string]func(ch ssh.Channel, line string){
		"says nothing":       func(ch ssh.Channel, _ string) { _, _ = io.Copy(io.Discard, ch) },
		"ends":               func(ch ssh.Channel, _ string) { _ = ch.Close() },
		"ends once it waits": func(ch ssh.Channel, line string) { said(ch, line); _ = ch.Close() },
		"says another mark": func(ch ssh.Channel, line string) {
			said(ch, "echo AAAAAAAAAAAAAAAAAAAAAAAAAA ")
			_, _ = io.Copy(io.Discard, ch)
		},
		"greets": func(ch ssh.Channel, line string) {
			_, _ = io.WriteString(ch, "hello\n")
			said(ch, line)
			_, _ = io.Copy(io.Discard, ch)
		},
		"sends statuses": func(ch ssh.Channel, line string) {
			said(ch, line)
			for range 1000 {
				sendStatus(ch, 7)
			}
		},
		"says more than fits": func(ch ssh.Channel, line string) {
			said(ch, line)
			_, _ = ch.Write(make([]byte, 16<<20))
			_ = ch.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, func(g *guest) { g.early = early })
			c := newMasters(t, g.paths, g.target).dial(t)
			within(t, 20*time.Second, "exec", func() {
				for range 2 {
					time.Sleep(100 * time.Millisecond) // the guest speaks
					got := outcomeOf(t, c, "in", "cat")
					if name != "says more than fits" { // what it says after its mark are its words for the command
						want(t, "exec", got, outcome{"in", "", "<nil>"})
					}
				}
			})
		})
	}
}
