package e2e

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The family of these tests: mos_demo with windows, on a network of its own.
const (
	sess = "mos_sess-box"
)

// sessRoot makes a root with that family, built and running, and takes both away
// at the end. MEROS_E2E_SESS names one to use instead, and to keep, whose build
// is then the faster.
func sessRoot(t *testing.T) string {
	t.Helper()
	root := os.Getenv("MEROS_E2E_SESS")
	if root == "" {
		root = newSessRoot(t)
	}
	t.Cleanup(func() { meros(t, root, "shutdown", "--force") })
	mustRun(t, root, "build", "mos_sess")
	mustRun(t, root, "init", "mos_sess")
	return root
}

func newSessRoot(t *testing.T) string {
	t.Helper()
	root := newRoot(t)
	from, to := filepath.Join(root, "conf/target/mos_demo"), filepath.Join(root, "conf/target/mos_sess")
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"build/box.xml", "libvirt/box.xml", "libvirt/lan.xml", "rootfs/box/includes.chroot/etc/systemd/network/10-lan.network"} {
		path := filepath.Join(to, file)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		words := strings.NewReplacer("10.60.7.", "10.61.8.", "mos_demo", "mos_sess", "<packages>less</packages>",
			"<packages>less xpra python3-pil xauth xterm xclip waypipe wayland-utils rsync</packages>", `free_space_mb="200"`, `free_space_mb="1500"`,
			`<details username="user"`, `<details border="red" username="user"`).Replace(string(content))
		if err := os.WriteFile(path, []byte(words), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// screen is an X server without a screen.
type screen struct{ display string }

func newScreen(t *testing.T) screen {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("Xvfb", "-displayfd", "3", "-screen", "0", "1280x800x24", "-nolisten", "tcp")
	cmd.ExtraFiles = []*os.File{w}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	_ = w.Close()
	var n int
	if _, err := fmt.Fscan(r, &n); err != nil {
		t.Fatalf("Xvfb names no display: %v", err)
	}
	return screen{fmt.Sprintf(":%d", n)}
}

// tool runs a program on the screen and returns what it prints.
func (s screen) tool(t *testing.T, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "DISPLAY="+s.display)
	out, err := cmd.Output()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		t.Fatal(err)
	}
	return string(out)
}

// window waits for a window whose title has these words, and returns its id.
func (s screen) window(t *testing.T, title string) string {
	t.Helper()
	for end := time.Now().Add(4 * time.Minute); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if ids := strings.Fields(s.tool(t, "xdotool", "search", "--onlyvisible", "--name", title)); len(ids) > 0 {
			return ids[0]
		}
	}
	t.Fatalf("no window %q is shown:\n%s", title, s.tool(t, "xwininfo", "-root", "-tree"))
	return ""
}

// photo returns a picture of the whole screen.
func (s screen) photo(t *testing.T) image.Image {
	t.Helper()
	picture, err := png.Decode(bytes.NewReader([]byte(s.tool(t, "import", "-window", "root", "png:-"))))
	if err != nil {
		t.Fatal(err)
	}
	return picture
}

// program is a meros run that goes on.
type program struct {
	cmd  *exec.Cmd
	errs *lockedBuffer
	done chan struct{}
}

func (s screen) start(t *testing.T, root string, args ...string) *program {
	t.Helper()
	cmd, _, _ := call{root: root, args: args, env: []string{"DISPLAY=" + s.display}}.command()
	p := &program{cmd, &lockedBuffer{}, make(chan struct{})}
	cmd.Stderr = p.errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait(); close(p.done) }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return p
}

// wantEnd checks that the program ends within a time, and with which status.
func (p *program) wantEnd(t *testing.T, limit time.Duration, code int) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		t.Fatalf("%q goes on after %s:\n%s", p.cmd.Args, limit, p.errs)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("%q ended with %d, want %d:\n%s", p.cmd.Args, got, code, p.errs)
	}
}

func TestRun(t *testing.T) {
	needHost(t)
	root := sessRoot(t)
	s := newScreen(t)
	t.Run("without a screen", func(t *testing.T) {
		r := call{root: root, args: []string{"run", sess, "xterm"}, env: []string{"DISPLAY=", "WAYLAND_DISPLAY="}}.run(t)
		wantFailure(t, r, 4, "no display", "DISPLAY", "hint")
	})
	t.Run("wrong calls", func(t *testing.T) {
		wantFailure(t, meros(t, root, "run", sess), 2, "no program")
		wantFailure(t, meros(t, root, "run", sess, "--display", "svga", "xterm"), 2, "--display")
		wantFailure(t, meros(t, root, "run", sess, "--allow", "everything", "xterm"), 2, "clipboard-to-guest")
		wantFailure(t, meros(t, root, "run", sess, "--border", "reddish", "xterm"), 2, "reddish")
	})
	t.Run("a window", func(t *testing.T) { testWindow(t, root, s) })
	wantNoWindows(t, root)
	t.Run("two programs", func(t *testing.T) { testTwoPrograms(t, root, s) })
	wantNoWindows(t, root)
	t.Run("detached", func(t *testing.T) { testDetached(t, root, s) })
	wantNoWindows(t, root)
	t.Run("clipboard", func(t *testing.T) { testClipboard(t, root, s) })
	t.Run("x11", func(t *testing.T) {
		p := s.start(t, root, "run", sess, "--display", "x11", "xterm", "-T", "bare", "-e", "sleep", "600")
		closeWindow(t, s, s.window(t, "bare"))
		p.wantEnd(t, time.Minute, 0)
	})
	t.Run("waypipe", func(t *testing.T) { testWaypipe(t, root) })
	t.Run("a guest that dies", func(t *testing.T) {
		p := s.start(t, root, "run", sess, "xterm", "-T", "doomed", "-e", "sleep", "600")
		s.window(t, "doomed on merOS")
		mustRun(t, root, "shutdown", "--force", "mos_sess")
		p.wantEnd(t, 2*time.Minute, 255)
		if !strings.Contains(p.errs.String(), "connection lost") {
			t.Errorf("run says:\n%s", p.errs)
		}
		wantNoSockets(t)
	})
}

// testWindow sees, photographs, types into and ends a program by its window.
func testWindow(t *testing.T, root string, s screen) {
	p := s.start(t, root, "run", sess, "sh", "-c",
		`xterm -T first -geometry 60x10+100+100 -e sh -c 'read word; echo "$word" >/tmp/typed; sleep 600'; exit 7`)
	id := s.window(t, "^first on merOS::"+sess+"$")
	wantBorder(t, s, id)
	s.tool(t, "xdotool", "windowfocus", id)
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Second) {
		s.tool(t, "xdotool", "type", "--window", id, "abcd")
		s.tool(t, "xdotool", "key", "--window", id, "Return")
		if r := meros(t, root, "exec", sess, "--", "cat", "/tmp/typed"); strings.Contains(r.out, "abcd") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("what was typed never arrived in the guest")
		}
	}
	closeWindow(t, s, id)
	p.wantEnd(t, time.Minute, 7)
}

// wantBorder checks that the window's edge is red all around, and inside is not.
func wantBorder(t *testing.T, s screen, id string) {
	t.Helper()
	var at image.Rectangle
	for line := range strings.Lines(s.tool(t, "xwininfo", "-id", id)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		field := map[string]*int{"Absolute upper-left X": &at.Min.X, "Absolute upper-left Y": &at.Min.Y, "Width": &at.Max.X, "Height": &at.Max.Y}[name]
		if field != nil {
			fmt.Sscan(value, field)
		}
	}
	at.Max = at.Max.Add(at.Min)
	middle := image.Pt((at.Min.X+at.Max.X)/2, (at.Min.Y+at.Max.Y)/2)
	edges := []image.Point{{at.Min.X + 1, middle.Y}, {at.Max.X - 2, middle.Y}, {middle.X, at.Min.Y + 1}, {middle.X, at.Max.Y - 2}}
	var picture image.Image
	red := func(p image.Point) bool {
		r, g, b, _ := picture.At(p.X, p.Y).RGBA()
		return r > 0x6000 && g < r/2 && b < r/2
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		picture = s.photo(t)
		if red(edges[0]) && red(edges[1]) && red(edges[2]) && red(edges[3]) && !red(middle) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the window at %v has no red border: %v at %v", at, picture.At(edges[0].X, edges[0].Y), edges[0])
		}
	}
}

// testTwoPrograms runs two in one session, and ends the first that showed it.
func testTwoPrograms(t *testing.T, root string, s screen) {
	first := s.start(t, root, "run", sess, "xterm", "-T", "one", "-e", "sleep", "600")
	one := s.window(t, "one on merOS")
	second := s.start(t, root, "--run", sess, "xterm", "-T", "two", "-e", "sleep", "600")
	s.window(t, "two on merOS")
	if got := strings.Count(mustRun(t, root, "exec", sess, "--", "ps", "-eo", "args").out, "xpra start"); got != 1 {
		t.Errorf("%d sessions of xpra in the guest, want one for both programs", got)
	}
	closeWindow(t, s, one)
	first.wantEnd(t, time.Minute, 0)
	s.window(t, "two on merOS")
	_ = second.cmd.Process.Signal(syscall.SIGINT)
	second.wantEnd(t, time.Minute, 130)
}

func testDetached(t *testing.T, root string, s screen) {
	r := call{root: root, args: []string{"run", sess, "--detach", "xterm", "-T", "away", "-e", "sleep", "600"}, env: []string{"DISPLAY=" + s.display}}.run(t)
	if r.code != 0 {
		t.Fatalf("run --detach: %s", r.err)
	}
	closeWindow(t, s, s.window(t, "away on merOS"))
	for end := time.Now().Add(time.Minute); len(names(t, "/run/meros-*/"+sess+".users")) > 0; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the detached program did not end with its window")
		}
	}
}

// testWaypipe has a program of the guest speak with a Wayland compositor without a screen.
func testWaypipe(t *testing.T, root string) {
	for _, name := range []string{"weston", "waypipe"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs %s: ./dist-conf.sh --for-tests installs it", name)
		}
	}
	dir, err := os.MkdirTemp("", "wl") // 0700, and short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	env := []string{"XDG_RUNTIME_DIR=" + dir, "WAYLAND_DISPLAY=wl-e2e", "DISPLAY="}
	weston := exec.Command("weston", "--backend=headless-backend.so", "--socket=wl-e2e", "--idle-time=0")
	weston.Env = append(os.Environ(), env[0])
	if err := weston.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = weston.Process.Kill(); _ = weston.Wait() })
	for end := time.Now().Add(time.Minute); len(names(t, dir+"/wl-e2e")) == 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("weston does not start")
		}
	}
	r := call{root: root, args: []string{"run", sess, "--display", "waypipe", "wayland-info"}, env: env}.run(t)
	if r.code != 0 || !strings.Contains(r.out, "'wl_compositor'") || !strings.Contains(r.out, "'wl_shm'") {
		t.Errorf("the guest's program ended with %d and sees\n%s\n%s", r.code, r.out, r.err)
	}
	if left := names(t, dir+"/meros-*/*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// copyIn makes a text the screen's clipboard until stop is called.
func (s screen) copyIn(t *testing.T, text string) (stop func()) {
	t.Helper()
	cmd := exec.Command("xclip", "-quiet", "-selection", "clipboard", "-in")
	cmd.Env, cmd.Stdin = append(os.Environ(), "DISPLAY="+s.display), strings.NewReader(text)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
}

// inSession has a line run in the guest on the display of the windows there.
func inSession(t *testing.T, root, line string) string {
	t.Helper()
	const find = `for name in DISPLAY XAUTHORITY; do
	value=$(tr '\0' '\n' </proc/"$(pgrep -n xterm)"/environ | sed -n "s/^$name=//p"); [ -z "$value" ] || export "$name=$value"
done; `
	return meros(t, root, "exec", sess, "--", "sh", "-c", find+line).out
}

// testClipboard copies on either side and pastes on the other: neither way unless it is
// allowed, and then that way alone.
func testClipboard(t *testing.T, root string, s screen) {
	if _, err := exec.LookPath("xclip"); err != nil {
		t.Skip("this host has no xclip")
	}
	for _, allow := range []string{"", "clipboard-to-guest", "clipboard-to-host", "clipboard-to-guest,clipboard-to-host"} {
		t.Run("allowed: "+allow, func(t *testing.T) {
			toGuest, toHost := strings.Contains(allow, "to-guest"), strings.Contains(allow, "to-host")
			args := []string{"run", sess}
			if allow != "" {
				args = append(args, "--allow", allow)
			}
			p := s.start(t, root, append(args, "xterm", "-T", "clip", "-e", "sleep", "600")...)
			id := s.window(t, "clip on merOS")
			paste := func(side string, pasted func() string, text string, allowed bool) {
				t.Helper()
				got := ""
				for range 10 {
					if got = pasted(); strings.Contains(got, text) {
						break
					}
					time.Sleep(time.Second)
				}
				if strings.Contains(got, text) != allowed {
					t.Errorf("pasted in the %s: %q, allowed: %t", side, got, allowed)
				}
			}
			stop := s.copyIn(t, "from the host")
			paste("guest", func() string { return inSession(t, root, "timeout 5 xclip -selection clipboard -out 2>&1") }, "from the host", toGuest)
			stop()
			inSession(t, root, "printf 'from the guest' | xclip -selection clipboard -in >/dev/null 2>&1")
			paste("host", func() string { return s.tool(t, "timeout", "5", "xclip", "-selection", "clipboard", "-out") }, "from the guest", toHost)
			closeWindow(t, s, id)
			p.wantEnd(t, time.Minute, 0)
			wantNoWindows(t, root)
		})
	}
}

// wantNoWindows checks that no end of xpra is left: on the host at once, and in
// the guest, which is told to end it, soon.
func wantNoWindows(t *testing.T, root string) {
	t.Helper()
	wantNoSockets(t)
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		out := mustRun(t, root, "exec", sess, "--", "ps", "-eo", "args").out
		if !strings.Contains(out, "xpra start") && !strings.Contains(out, "xterm") && !strings.Contains(out, "Xvfb") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("windows are left in the guest:\n%s", out)
		}
	}
}

func wantNoSockets(t *testing.T) {
	t.Helper()
	for _, kind := range []string{"users", "lead", "xpra"} {
		if left := names(t, "/run/meros-*/"+sess+"."+kind); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
	for _, file := range names(t, "/proc/[0-9]*/cmdline") {
		line, _ := os.ReadFile(file)
		if words := strings.ReplaceAll(string(line), "\x00", " "); strings.Contains(words, "xpra attach") && strings.Contains(words, sess) {
			t.Errorf("left on the host: %s", words)
		}
	}
}
