package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/proc"
	"meros/internal/proc/proctest"
)

func environment(settings ...string) func(string) string {
	return func(name string) string {
		for _, s := range settings {
			if value, ok := strings.CutPrefix(s, name+"="); ok {
				return value
			}
		}
		return ""
	}
}

func TestFindScreen(t *testing.T) {
	const xpra, waypipe, xauth = "xpra --version", "waypipe --version", "xauth version"
	missing := fmt.Errorf("xpra: %w", proc.ErrNotFound)
	for _, c := range []struct {
		name  string
		want  Display
		env   []string
		calls []proctest.Call
		ways  []Display
		words string // of the error
	}{
		{name: "nothing", want: DisplayAuto, words: "neither DISPLAY nor WAYLAND_DISPLAY"},
		{name: "none", want: DisplayNone, ways: []Display{DisplayNone}},
		{name: "x", want: DisplayAuto, env: []string{"DISPLAY=:0"}, calls: []proctest.Call{{Line: xpra, Out: "xpra v3.1.3\n"}}, ways: []Display{DisplayXpra}},
		{name: "no xpra", want: DisplayAuto, env: []string{"DISPLAY=:0"}, calls: []proctest.Call{{Line: xpra, Err: missing}}, words: "run xpra on the host: it is not installed"},
		{name: "odd xpra", want: DisplayXpra, env: []string{"DISPLAY=:0"}, calls: []proctest.Call{{Line: xpra, Out: "hello"}}, words: "does not tell its version"},
		{
			name: "wayland", want: DisplayAuto, env: []string{"WAYLAND_DISPLAY=wayland-0"},
			calls: []proctest.Call{{Line: waypipe}, {Line: xpra, Out: "xpra v3.1.3\n"}}, ways: []Display{DisplayWaypipe, DisplayXpra},
		},
		{
			name: "both", want: DisplayAuto, env: []string{"DISPLAY=:0", "WAYLAND_DISPLAY=wayland-0"},
			calls: []proctest.Call{{Line: xpra, Out: "xpra v6.2\n"}, {Line: waypipe}}, ways: []Display{DisplayXpra, DisplayWaypipe},
		},
		{name: "x11 is only for who asks", want: DisplayX11, env: []string{"DISPLAY=:0"}, calls: []proctest.Call{{Line: xauth}}, ways: []Display{DisplayX11}},
		{name: "x11 without X", want: DisplayX11, env: []string{"WAYLAND_DISPLAY=w"}, words: "DISPLAY is not set"},
		{name: "waypipe without Wayland", want: DisplayWaypipe, env: []string{"DISPLAY=:0"}, words: "WAYLAND_DISPLAY is not set"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := FindScreen(t.Context(), proctest.Script(t, c.calls...), environment(c.env...), c.want)
			if c.words != "" {
				if !errors.Is(err, ErrNoDisplay) || !strings.Contains(err.Error(), c.words) {
					t.Errorf("FindScreen = %v, want %q", err, c.words)
				}
				return
			}
			if err != nil || !slices.Equal(s.ways, c.ways) {
				t.Errorf("FindScreen = %v, %v, want %v", s, err, c.ways)
			}
		})
	}
}

func TestParseVersion(t *testing.T) {
	for in, want := range map[string]string{
		"xpra v3.1.3\n": "3.1", "6.2.1-r0": "6.2", "xpra v4.4.6-r1": "4.4", "5.0": "5.0",
		"": "", "3": "", "99999.1": "", "\x1b[2J": "",
	} {
		got := ""
		if v, ok := parseVersion(in); ok {
			got = v.String()
		}
		want1(t, in, got, want)
	}
}

func want1(t *testing.T, in, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("of %q: %q, want %q", in, got, want)
	}
}

func TestCompatible(t *testing.T) {
	for _, c := range []struct {
		host, guest version
		ok          bool
	}{
		{version{3, 1}, version{3, 1}, true},
		{version{6, 3}, version{6, 0}, true},
		{version{3, 1}, version{4, 4}, true},
		{version{6, 3}, version{4, 4}, true},
		{version{6, 3}, version{3, 1}, false},
		{version{3, 1}, version{5, 0}, false},
		{version{2, 5}, version{3, 1}, false},
	} {
		err := compatible(c.host, c.guest)
		if (err == nil) != c.ok || err != nil && len(hint.Of(err)) == 0 {
			t.Errorf("compatible(%s, %s) = %v, want ok %v, else a hint", c.host, c.guest, err, c.ok)
		}
	}
}

func TestAttachArgsTurnEverythingOff(t *testing.T) {
	line := strings.Join(attachArgs(version{3, 1}, "/run/x", "mos_sec-guest", "red", nil), "\n") + "\n"
	for _, off := range []string{
		"--clipboard=no", "--speaker=disabled", "--microphone=disabled", "--webcam=no", "--printing=no", "--file-transfer=no",
		"--open-files=no", "--open-url=no", "--notifications=no", "--system-tray=no", "--dbus-proxy=no", "--mmap=no",
		"--start-new-commands=no", "--title=@title@ on merOS::mos_sec-guest", "--border=red,4", "socket:///run/x",
	} {
		if !strings.Contains(line, off+"\n") {
			t.Errorf("the options lack %s:\n%s", off, line)
		}
	}
	if strings.Contains(line, "--splash") {
		t.Error("version 3 has no --splash")
	}
	newer := attachArgs(version{6, 0}, "/run/x", "mos_sec-guest", "red", nil)
	if slices.Contains(newer, "--dbus-proxy=no") || !slices.Contains(newer, "--reconnect=no") {
		t.Errorf("options for version 6: %q", newer)
	}
}

func TestFeaturesAreTurnedOnOneByOne(t *testing.T) {
	off := optionsFor(version{3, 1}, features(nil))
	for _, feature := range family.RunFeatures {
		on := optionsFor(version{3, 1}, features([]string{feature}))
		if slices.Equal(on, off) {
			t.Errorf("%s changes nothing", feature)
		}
	}
	for allow, want := range map[string]string{
		"clipboard-to-guest": "--clipboard-direction=to-server", "clipboard-to-host": "--clipboard-direction=to-client",
		"clipboard-to-guest clipboard-to-host": "--clipboard-direction=both",
	} {
		if on := optionsFor(version{3, 1}, features(strings.Fields(allow))); !slices.Contains(on, want) {
			t.Errorf("%s gives %q, want %s", allow, on, want)
		}
	}
}

func TestCheckGuestEnd(t *testing.T) {
	for in, ok := range map[string]bool{
		"display :100\nsocket /home/user/x\n":                               true,
		"display :100\n":                                                    false,
		"display localhost:1\nsocket /x\n":                                  false,
		"display :1; rm\nsocket /x\n":                                       false,
		"display :1\nsocket x\n":                                            false,
		"display :1\nsocket /" + strings.Repeat("x", 200):                   false,
		"display :100\nsocket /x\x00y\n":                                    false,
		"display :100\nsocket /x\ndisplay :\x1b]0;x\x07\nsocket /home/user": false,
	} {
		if _, err := checkGuestEnd(facts(in)); (err == nil) != ok {
			t.Errorf("checkGuestEnd(%q) = %v, want ok %v", in, err, ok)
		}
	}
}

// FuzzFacts gives what a guest says of its end of xpra.
func FuzzFacts(f *testing.F) {
	f.Add("version 3.1.3\ndisplay :100\nsocket /home/user/.cache/meros-run/xpra.sock\n")
	f.Fuzz(func(t *testing.T, s string) {
		known := facts(s)
		_, _ = parseVersion(known["version"])
		end, err := checkGuestEnd(known)
		if err == nil && (len(end.socket) > maxSocket || strings.ContainsAny(end.socket, "\x00\n") || strings.ContainsAny(end.display, " \n/")) {
			t.Errorf("%q passes as %+v", s, end)
		}
	})
}

func TestRunWithoutDisplay(t *testing.T) {
	g := newGuest(t, nil)
	screen, err := FindScreen(t.Context(), nil, environment(), DisplayNone)
	if err != nil {
		t.Fatal(err)
	}
	started := false
	err = Run(t.Context(), g.dial(), g.paths, quiet(), nil, screen, g.target, RunOptions{
		Argv: []string{"sh", "-c", `exit "$CODE"`}, Env: []string{"CODE=5"}, Getenv: environment(), Started: func() { started = true },
	})
	if fmt.Sprint(err) != "exit status 5" || !started {
		t.Errorf("Run = %v, started %v, want status 5 after it was started", err, started)
	}
}

func TestRunInAGuestWithoutXpra(t *testing.T) {
	g := newGuest(t, nil)
	t.Setenv("HOME", g.home)
	t.Setenv("PATH", binWithout(t, "xpra"))
	run := t.TempDir()
	screen := &Screen{ways: []Display{DisplayXpra}, xpra: version{3, 1}}
	err := Run(t.Context(), g.dial(), g.paths, quiet(), nil, screen, g.target, RunOptions{
		Argv: []string{"true"}, Getenv: environment("XDG_RUNTIME_DIR=" + run),
	})
	if !errors.Is(err, ErrGuestLacks) || !strings.Contains(err.Error(), "xpra is not installed") || len(hint.Of(err)) == 0 {
		t.Errorf("Run = %v, hints %q, want that the guest lacks xpra", err, hint.Of(err))
	}
	wantEmpty(t, run)
}

// Who asks for another session than runs gets neither: not more, not less.
func TestRunBesideAnotherSession(t *testing.T) {
	g := newGuest(t, nil)
	t.Setenv("HOME", g.home)
	t.Setenv("PATH", binWithout(t, "xpra"))
	runtime := t.TempDir()
	getenv := environment("XDG_RUNTIME_DIR=" + runtime)
	dir, err := openRunDir(g.paths, g.target.FullID(), getenv)
	if err != nil {
		t.Fatal(err)
	}
	g.target.RunAllow = []string{"urls"}
	first := &window{dir: dir, options: RunOptions{Border: "red", Allow: []string{"urls", "audio"}}}
	users, err := first.join(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	run := func(border string, allow ...string) error {
		screen := &Screen{ways: []Display{DisplayXpra}, xpra: version{3, 1}}
		return Run(t.Context(), g.dial(), g.paths, quiet(), nil, screen, g.target, RunOptions{Argv: []string{"true"}, Getenv: getenv, Border: border, Allow: allow})
	}
	for name, err := range map[string]error{
		"less": run("red"), "more": run("red", "audio", "files"), "as many": run("red", "files"), "border": run("blue", "audio"),
	} {
		if !errors.Is(err, ErrOtherSession) || !strings.Contains(err.Error(), "shown with --border 'red' --allow audio,urls, not with") || len(hint.Of(err)) != 2 {
			t.Errorf("%s: Run = %v, hints %q", name, err, hint.Of(err))
		}
	}
	if err := run("red", "audio", "audio"); !errors.Is(err, ErrGuestLacks) {
		t.Errorf("the same: Run = %v, want it to look for xpra", err)
	}
	users.release()
	if err := run("blue", "files"); !errors.Is(err, ErrGuestLacks) {
		t.Errorf("after it: Run = %v, want it to look for xpra", err)
	}
	wantEmpty(t, runtime)
}

// untilEnded is a program of the host that goes on until it is ended.
type untilEnded struct{}

func (untilEnded) Run(ctx context.Context, _ proc.Cmd) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// Where the guest lacks what is tried first, the next way is gone also by way of a master,
// which does not forward the socket that it needs.
func TestRunFallsBackBesideAMaster(t *testing.T) {
	bin := binWithout(t, "xpra")
	const waypipe = "#!/bin/sh\n[ -S \"$2\" ] || exit 9\nshift 4\nexec \"$@\"\n" // --socket SOCKET server --
	err := errors.Join(os.WriteFile(filepath.Join(bin, "waypipe"), []byte(waypipe), 0o755), os.Chmod(filepath.Dir(bin), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	s := (&openSSH{shell: "/bin/sh", lines: []string{"SetEnv PATH=" + bin}}).start(t)
	m := newMasters(t, s.paths, s.target)
	c := m.dial(t)
	want(t, "masters started", m.started, 1)
	screen := &Screen{ways: []Display{DisplayXpra, DisplayWaypipe}, xpra: version{3, 1}, wayland: "wayland-0"}
	err = Run(t.Context(), c, s.paths, quiet(), untilEnded{}, screen, s.target, RunOptions{Argv: []string{"sh", "-c", "exit 7"}, Getenv: m.getenv})
	if fmt.Sprint(err) != "exit status 7" {
		t.Errorf("Run = %v, want status 7", err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.home, ".cache/meros-run/waypipe*")); len(left) > 0 {
		t.Errorf("left in the guest: %q", left)
	}
}

// xauth makes keys, and keeps with which options.
type xauth struct{ calls []string }

func (x *xauth) Run(_ context.Context, c proc.Cmd) error {
	x.calls = append(x.calls, strings.Join(c.Argv, " "))
	_, err := io.WriteString(c.Stdout, ":7  MIT-MAGIC-COOKIE-1  "+strings.Repeat("0f", 16)+"\n")
	return err
}

// The key to the host's X server is in the guest only while it is of use.
func TestX11LeavesNoKey(t *testing.T) {
	g := newGuest(t, nil) // forwards no sockets
	t.Setenv("HOME", g.home)
	x := &xauth{}
	err := Run(t.Context(), g.dial(), g.paths, quiet(), x, &Screen{ways: []Display{DisplayX11}, display: ":7"}, g.target,
		RunOptions{Argv: []string{"true"}, Getenv: environment("XDG_RUNTIME_DIR=" + t.TempDir())})
	if err == nil || !strings.Contains(err.Error(), "forward a socket of mos_demo-box") {
		t.Errorf("Run = %v, want that the guest forwards no socket", err)
	}
	if len(x.calls) != 2 || !strings.HasSuffix(x.calls[0], "generate :7 . untrusted timeout 1200") {
		t.Errorf("called %q", x.calls)
	}
	wantEmpty(t, filepath.Join(g.home, ".cache/meros-run"))
}

// binWithout makes a folder with the programs that scripts of ours call.
func binWithout(t *testing.T, missing string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"sh", "mkdir", "cat", "kill", "flock", "rm", "true"} {
		path, err := proc.Find(name)
		if err != nil || name == missing {
			continue
		}
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the runtime folder: %v, %v", left, err)
	}
}
