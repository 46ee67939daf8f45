package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// testFaultyBuilds breaks the recipe in one way after the other. root holds a
// good build of mos_demo, so that only what the fault touches is done again.
func testFaultyBuilds(t *testing.T, root string) {
	image := filepath.Join(root, "data/images/mos_demo-box.qcow2")
	keys := filepath.Join(root, "data/ssh_keys/mos_demo-box")
	good, goodKey := identity(t, image), identity(t, keys)
	before := lookAtHost(t)
	const hook = "mos_demo/rootfs/box/hooks/90-broken"
	script := func(text string, mode os.FileMode) func() {
		return func() { write(t, root, hook, text, mode) }
	}
	for _, tt := range []struct {
		name  string
		spoil func()
		code  int
		words []string
	}{
		{
			"a hook that fails", script("#!/bin/sh\nfor i in $(seq 30); do echo line $i; done\nexit 7\n", 0o755), 1,
			[]string{"build mos_demo-box", "90-broken", "exit status 7", "line 11", "line 30", "data/log/build-mos_demo-box.log"},
		},
		{"a hook without run bit", script("#!/bin/sh\n", 0o644), 3, []string{"90-broken", "chmod +x"}},
		{"a hook with a missing interpreter", script("#!/usr/bin/nonesuch\n", 0o755), 1, []string{"90-broken", "/usr/bin/nonesuch", "hint"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.spoil()
			defer remove(t, root, hook)
			r := meros(t, root, "build", "mos_demo")
			wantFailure(t, r, tt.code, tt.words...)
			if strings.Contains(r.err, "line 10\n") {
				t.Errorf("more than the last 20 lines are shown:\n%s", r.err)
			}
			wantNothingHalfMade(t, root)
		})
	}
	testInterruptedBuilds(t, root)
	if now := identity(t, image); now != good {
		t.Errorf("a failed build touched the image: %s, want %s", now, good)
	}
	if now := identity(t, keys); now != goodKey {
		t.Errorf("a failed build touched the keys: %s, want %s", now, goodKey)
	}
	wantHost(t, before)
}

// testInterruptedBuilds presses Ctrl-C in each phase of a build.
func testInterruptedBuilds(t *testing.T, root string) {
	const hook = "mos_demo/rootfs/box/hooks/90-broken"
	t.Run("Ctrl-C in a hook that hangs", func(t *testing.T) {
		write(t, root, hook, "#!/bin/sh\ntouch /opt/hanging\nsetsid sleep 4711 &\nsleep 4711\n", 0o755)
		defer remove(t, root, hook)
		hanging := func(string) bool {
			return len(names(t, filepath.Join(root, "data/build/cache/pending/*/fs/opt/hanging"))) > 0
		}
		r := call{root: root, args: []string{"build", "mos_demo"}}.interrupt(t, hanging)
		wantFailure(t, r, 130)
		wantNothingHalfMade(t, root)
	})
	// In this order: what is packed is installed, and then not installed again.
	for _, step := range [][2]string{{"bootstrap", "bootstrapping"}, {"packages", "installing"}, {"pack", "packing"}} {
		phase, word := step[0], step[1]
		t.Run("Ctrl-C in "+phase, func(t *testing.T) {
			// Another suite or package makes these stages' keys new.
			replaceIn(t, root, "mos_demo/build/box.xml", "<packages>less<", "<packages>less bc<")
			defer replaceIn(t, root, "mos_demo/build/box.xml", "<packages>less bc<", "<packages>less<")
			args := []string{"build", "mos_demo"}
			if phase == "bootstrap" {
				args = append(args, "--no-cache")
			}
			r := call{root: root, args: args}.interrupt(t, func(errs string) bool { return strings.Contains(errs, word) })
			wantFailure(t, r, 130)
			wantNothingHalfMade(t, root)
		})
	}
}

// testMirrors gives the recipe mirrors that do not do their work.
func testMirrors(t *testing.T, root string) {
	none := httptest.NewServer(http.NotFoundHandler())
	defer none.Close()
	ended := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-ended }))
	defer silent.Close()
	defer close(ended)
	for name, mirror := range map[string]string{"answers 404": none.URL, "is not there": nobody(t), "never answers": silent.URL} {
		t.Run("a mirror that "+name, func(t *testing.T) {
			replaceIn(t, root, "mos_demo/build/box.xml", `release="bookworm"`, `release="bookworm" mirror="`+mirror+`/debian"`)
			defer replaceIn(t, root, "mos_demo/build/box.xml", ` mirror="`+mirror+`/debian"`, "")
			started := time.Now()
			r := meros(t, root, "build", "mos_demo")
			wantFailure(t, r, 1, "build mos_demo-box", "bootstrap bookworm", "hint", "mirror")
			if took := time.Since(started); took > 50*time.Second {
				t.Errorf("the build failed after %s only", took)
			}
			if mirror == silent.URL && !strings.Contains(r.err, "nothing came for 20s") {
				t.Errorf("the build does not say that the mirror is silent:\n%s", r.err)
			}
			wantNothingHalfMade(t, root)
		})
	}
}

// testTwoBuilds has a second meros meet the first at work.
func testTwoBuilds(t *testing.T, root string) {
	const hook = "mos_demo/rootfs/box/hooks/90-slow"
	write(t, root, hook, "#!/bin/sh\ntouch /opt/slow\nwhile [ -e /opt/slow ]; do sleep 0.1; done\n", 0o755)
	first := call{root: root, args: []string{"build", "mos_demo"}}
	cmd, _, errs := first.command()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var slow []string
	for deadline := time.Now().Add(time.Minute); len(slow) == 0; time.Sleep(50 * time.Millisecond) {
		slow = names(t, filepath.Join(root, "data/build/cache/pending/*/fs/opt/slow"))
		if time.Now().After(deadline) {
			t.Fatalf("the first build never came to its hook:\n%s", errs)
		}
	}
	wantFailure(t, meros(t, root, "build", "mos_demo", "--no-wait"), 1, "mos_demo", "in use by another meros", "build mos_demo (process ")
	second, _, _ := first.command()
	words := &lockedBuffer{}
	second.Stderr = words
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); !strings.Contains(words.String(), "waiting for: build mos_demo (process "); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the second build does not say for whom it waits:\n%s", words)
		}
	}
	// Through the chroot's own mount a removal in the layer may go unseen: end the
	// first build instead, whose lock the second then gets.
	remove(t, root, hook)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("the first build, interrupted, ended with %d, want 130", code)
	}
	_ = second.Process.Signal(os.Interrupt)
	_ = second.Wait()
	wantNothingHalfMade(t, root)
}

// testOrdinaryUser calls meros on data that belongs to root.
func testOrdinaryUser(t *testing.T, root string) {
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	r := call{root: root, args: []string{"build", "mos_demo"}, attr: nobody}.run(t)
	wantFailure(t, r, 4, "permission", "hint", "sudo")
	r = call{root: root, args: []string{"validate", "mos_demo"}, attr: nobody}.run(t)
	if r.code != 0 {
		t.Errorf("validate needs root: %s", r.err)
	}
}

// testSudo checks that what is made under sudo belongs to the caller.
func testSudo(t *testing.T, root string) {
	write(t, root, "mos_demo/rootfs/box/includes.chroot/etc/sudo-test", "x", 0o644)
	r := call{root: root, args: []string{"build", "mos_demo"}, env: []string{"SUDO_UID=65534", "SUDO_GID=65534"}, stdin: io.Reader(nil)}.run(t)
	if r.code != 0 {
		t.Fatalf("build under sudo: %s", r.err)
	}
	for _, name := range []string{"images/mos_demo-box.qcow2", "images/mos_demo-box.vmlinuz", "images/mos_demo-box.json", "log/build-mos_demo-box.log"} {
		info, err := os.Stat(filepath.Join(root, "data", name))
		if err != nil {
			t.Error(err)
			continue
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 65534 {
			t.Errorf("%s belongs to %d, want the caller of sudo", name, uid)
		}
	}
}

// TestFullDisk builds where there is no room, at two of the places where it runs
// out.
func TestFullDisk(t *testing.T) {
	needHost(t)
	for _, size := range []string{"64m", "700m"} {
		t.Run(size, func(t *testing.T) {
			before := lookAtHost(t)
			root := newRoot(t)
			data := filepath.Join(root, "data")
			if err := os.Mkdir(data, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mount("tmpfs", data, "tmpfs", 0, "size="+size); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := syscall.Unmount(data, 0); err != nil {
					t.Errorf("the full disk is still in use: %v", err)
				}
				wantHost(t, before)
			}()
			r := meros(t, root, "build", "mos_demo")
			wantFailure(t, r, 1, "build mos_demo-box", "o space left", "hint")
			wantNothingHalfMade(t, root)
		})
	}
}

// TestDebootstrap builds with the other bootstrap tool, which takes nothing from the
// suite of security updates: meros has to.
func TestDebootstrap(t *testing.T) {
	needHost(t)
	root := newRoot(t)
	replaceIn(t, root, "mos_demo/build/box.xml", `release="bookworm"`, `release="bookworm" bootstrap="debootstrap"`)
	if r := mustRun(t, root, "build", "mos_demo"); !strings.Contains(r.err, "bootstrapping debian bookworm with debootstrap") {
		t.Errorf("build says:\n%s", r.err)
	}
	wantNothingHalfMade(t, root)
	installed := versionsOf(t, inImage(t, filepath.Join(root, "data/images/mos_demo-box.qcow2"), "cat /var/lib/dpkg/status"))
	if installed["apt"] == "" {
		t.Fatal("no packages found in the image")
	}
	fixed := versionsOf(t, string(index(t, mirrorOf(t, "bookworm-security"), "bookworm-security")))
	for name, version := range installed {
		if want := fixed[name]; want != "" && exec.Command("dpkg", "--compare-versions", version, "ge", want).Run() != nil {
			t.Errorf("%s is %s, the security suite has %s", name, version, want)
		}
	}
}

// versionsOf are the highest versions in a list of packages, by name.
func versionsOf(t *testing.T, list string) map[string]string {
	t.Helper()
	versions := map[string]string{}
	for entry := range strings.SplitSeq(list, "\n\n") {
		var name, version string
		for line := range strings.Lines(entry) {
			if v, ok := strings.CutPrefix(line, "Package: "); ok {
				name = strings.TrimSpace(v)
			}
			if v, ok := strings.CutPrefix(line, "Version: "); ok {
				version = strings.TrimSpace(v)
			}
		}
		if known := versions[name]; known == "" || exec.Command("dpkg", "--compare-versions", known, "lt", version).Run() == nil {
			versions[name] = version
		}
	}
	return versions
}
