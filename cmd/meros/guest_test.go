package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"meros/internal/layout"
	"meros/internal/proc"
	"meros/internal/session"
	"meros/internal/session/sessiontest"
)

// testGuests makes families with one target each, for which guests in this process stand,
// and returns their root folder. Targets of one family may not share an address, as these
// do.
func testGuests(t *testing.T, fullIDs ...string) (root string, guests []*sessiontest.Guest) {
	t.Helper()
	root = t.TempDir()
	addr := sessiontest.Address(t)
	for _, fullID := range fullIDs {
		family, name, _ := strings.Cut(fullID, "-")
		dir := filepath.Join(root, "conf", "target", family, "build")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		id, err := session.MakeKeys(layout.Paths{Root: root}, fullID)
		if err != nil {
			t.Fatal(err)
		}
		g := sessiontest.Start(t, addr, id.HostPrivate, id.AuthorizedKey)
		guests = append(guests, g)
		recipe := fmt.Sprintf(`<target><details username="someone"/><network network_addr="192.0.2.1" ip_addr="%s"/><ssh port="%d"/></target>`, addr, g.Addr.Port())
		if err := os.WriteFile(filepath.Join(dir, name+".xml"), []byte(recipe), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root, guests
}

// call is a run of meros.
type call struct {
	status    int
	out, errs string
}

func meros(t *testing.T, root, in string, args ...string) call {
	t.Helper()
	var out, errs bytes.Buffer
	status := run(append([]string{"--root", root}, args...), strings.NewReader(in), &out, &errs)
	return call{status, out.String(), errs.String()}
}

// wantCall holds a call against a status, its output, and words among its errors, or
// no errors for "".
func wantCall(t *testing.T, what string, got call, status int, out, words string) {
	t.Helper()
	if got.status != status || got.out != out || !strings.Contains(got.errs, words) || words == "" && got.errs != "" {
		t.Errorf("%s: %+v, want status %d, output %q and %q among the errors", what, got, status, out, words)
	}
}

func TestExecOfAGuest(t *testing.T) {
	root, guests := testGuests(t, "a-t")
	exec := func(in string, args ...string) call {
		return meros(t, root, in, append([]string{"exec", "a-t", "--no-master"}, args...)...)
	}
	wantCall(t, "status and streams", exec("in", "--", "sh", "-c", "cat; echo err >&2; exit 7"), 7, "in", "err\n")
	wantCall(t, "as the recipe's user", exec("", "-u", "someone", "--", "true"), 0, "", "")
	wantCall(t, "as another", exec("", "-u", "root", "--", "true"), 255, "", "meros: error: exec on a-t as root: the recipe lets in someone alone\n")
	wantCall(t, "signal", exec("", "--", "sh", "-c", "kill -TERM $$"), 128+15, "", "Terminated")
	t.Setenv("GIVEN", "a b")
	wantCall(t, "variables", exec("", "-e", "GIVEN", "-e", "EMPTY=", "-e", "X=y=z", "--", "sh", "-c", `echo "$GIVEN,${EMPTY-unset},$X"`), 0, "a b,,y=z\n", "")
	wantCall(t, "a variable that is not set", exec("", "-e", "NO_SUCH_ONE", "--", "sh", "-c", `echo "${NO_SUCH_ONE-unset}"`), 0, "unset\n", "")

	// The guest's banner is not shown, and nothing else that it did not print as the command.
	if got := meros(t, root, "exit 3\n", "connect", "a-t"); got != (call{3, "", ""}) {
		t.Errorf("connect: %+v", got)
	}

	for name, script := range map[string]string{"heeded": "sleep 60", "unheeded": `trap "" INT TERM; echo $$ >pid; while :; do sleep 0.05; done`} {
		started := time.Now()
		wantCall(t, name, exec("", "--timeout", "300ms", "--", "sh", "-c", script), 124, "", "meros: error: exec on a-t: not done after 300ms\n")
		if took := time.Since(started); took > 15*time.Second {
			t.Errorf("%s: it took %s", name, took)
		}
	}
	pid, err := os.ReadFile(filepath.Join(guests[0].Home, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if _, err = os.Stat("/proc/" + strings.TrimSpace(string(pid))); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("the command runs on after its time")
}

func TestExecOnMany(t *testing.T) {
	root, guests := testGuests(t, "a-t", "b-t", "c-t")
	exec := func(pattern string, args ...string) call {
		return meros(t, root, "in", append([]string{"exec", pattern, "--no-master"}, args...)...)
	}
	lines := func(s string) []string { return slices.Sorted(strings.Lines(s)) }

	// Each waits for the others: they run side by side.
	for i, g := range guests {
		if err := os.WriteFile(filepath.Join(g.Home, "number"), fmt.Append(nil, i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	meet := filepath.Join(t.TempDir(), "meet")
	script := fmt.Sprintf(`touch %s$(cat number); while [ $(ls %s* | wc -l) -lt 3 ]; do sleep 0.05; done; printf 'x\033[2J\n'; cat; exit $(cat number)`, meet, meet)
	got := exec("*-t", "--timeout", "20s", "--", "sh", "-c", script)
	if want := []string{`a-t: x\x1b[2J` + "\n", `b-t: x\x1b[2J` + "\n", `c-t: x\x1b[2J` + "\n"}; !slices.Equal(lines(got.out), want) || got.status != 2 {
		t.Errorf("side by side: %+v", got)
	}
	if want := []string{"b-t: exit status 1\n", "c-t: exit status 2\n"}; !slices.Equal(lines(got.errs), want) {
		t.Errorf("the statuses are told as %q, want %q", got.errs, want)
	}

	for pattern, want := range map[string]string{"a-t,c-t": "ac", "[ab]-t": "ab", "?-t": "abc", "c-*,c-t": "c"} {
		var names []string
		for line := range strings.Lines(exec(pattern, "--", "echo", "1").out) {
			names = append(names, strings.TrimSuffix(line, "-t: 1\n"))
		}
		slices.Sort(names)
		if strings.Join(names, "") != want {
			t.Errorf("%q means %q, want %q", pattern, names, want)
		}
	}
	wantCall(t, "none", exec("x-*", "--", "true"), 5, "", `no target with a session is called "x-*"`)
	wantCall(t, "one of two", exec("b-t,none-x", "--", "echo"), 5, "", `no target with a session is called "none-x"`)
	wantCall(t, "no pattern", exec("a-[", "--", "true"), 2, "", "is no pattern")
	wantCall(t, "a terminal for many", exec("*-t", "--tty", "--", "true"), 2, "", "--tty is for one target")
	wantCall(t, "another user", exec("*-t", "-u", "root", "--", "true"), 255, "", "exec on b-t as root: the recipe lets in someone alone")
	wantCall(t, "the worst", exec("a-t,b-t", "--", "sh", "-c", "exit $((9 - $(cat number)))"), 9, "", "b-t: exit status 8\n")
	wantCall(t, "its time", exec("a-t,b-t", "--timeout", "200ms", "--", "sleep", "60"), 124, "", "meros: error: exec on b-t: not done after 200ms\n")
}

// One that waits until others have ended has as much time as they had.
func TestExecOnMoreThanRunAtOnce(t *testing.T) {
	var names []string
	for i := range maxAtOnce + 1 {
		names = append(names, fmt.Sprintf("many%d-t", i))
	}
	root, _ := testGuests(t, names...)
	wantCall(t, "all", meros(t, root, "", "exec", "many*", "--no-master", "--timeout", "4s", "--", "sleep", "2.2"), 0, "", "")
}

// echo answers each connection with what it sends.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
		}
	}()
	return l.Addr().String()
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func TestConnectForwards(t *testing.T) {
	root, _ := testGuests(t, "a-t")
	far := echo(t)
	host, port, _ := net.SplitHostPort(far)
	local, remote, socks := freePort(t), freePort(t), freePort(t)
	in, typed := io.Pipe()
	ended := make(chan call, 1)
	go func() {
		var out, errs bytes.Buffer
		status := run([]string{"--root", root, "connect", "a-t", "-L", local + ":" + far, "-R", remote + ":" + far, "-D", socks}, in, &out, &errs)
		ended <- call{status, out.String(), errs.String()}
	}()
	say := func(port string, first, answer []byte) {
		t.Helper()
		var got []byte
		for range 300 { // until the forward is there
			conn, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err == nil {
				_, _ = conn.Write(append(first, "hello"...))
				_ = conn.(*net.TCPConn).CloseWrite()
				got, _ = io.ReadAll(conn)
				conn.Close()
			}
			if string(got) == string(answer)+"hello" {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("port %s: %q came back", port, got)
	}
	say(local, nil, nil)
	say(remote, nil, nil)
	var number int
	_, _ = fmt.Sscan(port, &number)
	request := append([]byte{5, 1, 0, 5, 1, 0, 3, byte(len(host))}, host...)
	say(socks, append(request, byte(number>>8), byte(number)), []byte{5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	_, _ = io.WriteString(typed, "exit 4\n")
	if got := <-ended; got != (call{4, "", ""}) {
		t.Errorf("connect: %+v", got)
	}
	for _, port := range []string{local, socks, remote} {
		isOpen := true
		for range 100 { // the guest closes its own once it has noticed
			conn, err := net.Dial("tcp", "127.0.0.1:"+port)
			if isOpen = err == nil; !isOpen {
				break
			}
			conn.Close()
			time.Sleep(20 * time.Millisecond)
		}
		if isOpen {
			t.Errorf("port %s is open after the shell", port)
		}
	}
	wantCall(t, "a wrong forward", meros(t, root, "", "connect", "a-t", "-L", "x"), 2, "", "connect: -L")
	wantCall(t, "a port that is taken", meros(t, root, "", "connect", "a-t", "-L", port+":x:1"), 1, "", "pick another port")
}

// What a guest may not send is listed, twenty of it unless all is asked for.
func TestPullTellsWhatItRefuses(t *testing.T) {
	root, guests := testGuests(t, "a-t")
	dir := filepath.Join(guests[0].Home, "mos-shared")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 25 {
		if err := os.Symlink("/etc/passwd", filepath.Join(dir, fmt.Sprintf("link%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		flags []string
		lines int
		last  string
	}{{nil, 20, "warning: and 5 more: --verbose lists the first 25\n"}, {[]string{"--verbose"}, 25, ""}} {
		got := meros(t, root, "", append(c.flags, "pull", "a-t", "--no-master", "--from", dir)...)
		if n := strings.Count(got.errs, "warning: refused \"link"); got.status != 1 || n != c.lines || !strings.Contains(got.errs, c.last) || c.last == "" && strings.Contains(got.errs, " more") {
			t.Errorf("%q: %+v", c.flags, got)
		}
	}
}

// What docs/sessions.md shows of commands and files works as it is written.
func TestSessionsAsDocumented(t *testing.T) {
	docs, err := os.ReadFile("../../docs/sessions.md")
	if err != nil {
		t.Fatal(err)
	}
	var lines [][]string
	for _, title := range []string{"Commands on many targets", "Files"} {
		_, section, _ := strings.Cut(string(docs), "\n## "+title+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		lines = append(lines, regexp.MustCompile(`(?m)^ {4}(.*meros .*)$`).FindAllStringSubmatch(section, -1)...)
	}
	if len(lines) < 8 {
		t.Fatalf("docs/sessions.md shows %d lines", len(lines))
	}
	root, guests := testGuests(t, "mos_demo-box", "mos_lab-panther")
	dir, bin := t.TempDir(), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(bin, "meros")); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{dir + "/notes.txt", dir + "/pictures/one", dir + "/website/index.html", guests[0].Home + "/results/one"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(file), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range lines {
		var out bytes.Buffer
		err := proc.Host{}.Run(t.Context(), proc.Cmd{
			Argv: []string{"sh", "-c", line[1]}, Dir: dir, Stdout: &out, Stderr: &out,
			Env: append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "MEROS_ROOT="+root, "XDG_RUNTIME_DIR="+t.TempDir()),
		})
		if err != nil {
			t.Errorf("%s: %v\n%s", line[1], err, out.String())
		}
	}
	for _, file := range []string{guests[0].Home + "/mos-shared/notes.txt", guests[0].Home + "/backup.tar", guests[1].Home + "/mos-shared/results/one", dir + "/results/one"} {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
}
