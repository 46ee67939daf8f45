package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"meros/internal/virt/virttest"

	"meros/internal/ui/uitest"
)

const (
	tinyFamily = "e2e_tiny"
	tiny       = tinyFamily + "-box"
)

// tinyRoot is a root with a family of one guest that is up in a second, on a
// network of its own.
func tinyRoot(t *testing.T) string {
	t.Helper()
	root := newRoot(t)
	write(t, root, tinyFamily+"/libvirt/box.xml", virttest.OnNetwork(), 0o644)
	write(t, root, tinyFamily+"/libvirt/lan.xml", `<network><bridge name="e2e_tiny_lan"/><dns enable="no"/><ip address="10.64.77.1" prefix="24"/></network>`, 0o644)
	disk := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(disk, virttest.Guest(), 0o644); err != nil {
		t.Fatal(err)
	}
	mustRun(t, root, "import", tiny, disk)
	t.Cleanup(func() { meros(t, root, "shutdown", "--force") })
	return root
}

// TestConsoleOnATerminal uses the console as a person does.
func TestConsoleOnATerminal(t *testing.T) {
	needHost(t)
	root := tinyRoot(t)
	wantFailure(t, meros(t, root, "console", tiny), 1, tiny+" does not run", "meros init")
	wantFailure(t, meros(t, root, "console", tinyFamily+"-nothing"), 5)
	mustRun(t, root, "init", tinyFamily, "--accel", "tcg")
	for _, leave := range []string{"\x1d", "q"} {
		master, tty := uitest.OpenPTY(t, 101, 33)
		was := uitest.Termios(t, tty)
		cmd, _, _ := call{root: root, args: []string{"console", tiny}, attr: controllingTTY}.command()
		cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		shown := &lockedBuffer{}
		go shown.follow(master)
		shown.await(t, "stty rows 33 cols 101")
		for deadline := time.Now().Add(time.Minute); !strings.Contains(shown.String(), "zz"); time.Sleep(100 * time.Millisecond) {
			if _, err := master.WriteString("z"); err != nil || time.Now().After(deadline) {
				t.Fatalf("no echo: %v\n%s", err, shown)
			}
		}
		if _, err := master.WriteString(leave); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("left by %q: %v\n%s", leave, err, shown)
		}
		if now := uitest.Termios(t, tty); now != was {
			t.Errorf("left by %q: the terminal is not as it was", leave)
		}
	}
	if r := mustRun(t, root, "info", tiny); !slices.Contains(strings.Fields(r.out), "off") {
		t.Errorf("after it powered itself off:\n%s", r.out)
	}
}

// testConsoleShell logs in on the console of a real guest, from a terminal that is
// resized meanwhile.
func testConsoleShell(t *testing.T, root string) {
	master, tty := uitest.OpenPTY(t, 100, 30)
	cmd, _, _ := call{root: root, args: []string{"console", box}, attr: controllingTTY}.command()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	shown := &lockedBuffer{}
	go shown.follow(master)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	shown.await(t, "Ctrl-] leaves")
	typed := func(text string) {
		t.Helper()
		if _, err := master.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	// A terminal of that size answers each time that it is asked.
	answered := 0
	answer := func(size string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); strings.Count(shown.String(), "\x1b[6n") <= answered; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the shell does not ask for the size:\n%q", shown)
			}
		}
		answered++
		typed("\x1b[" + size + "R")
		shown.await(t, "# ")
	}
	typed("\r")
	answer("33;101")
	typed("id -un; stty size\r")
	shown.await(t, "root\r\n33 101")
	answer("44;122")
	typed("stty size\r")
	shown.await(t, "44 122")
	answer("44;122")
	typed("exit\r")
	shown.await(t, "press ENTER to login")
	typed("\x1d")
	if err := cmd.Wait(); err != nil {
		t.Errorf("console: %v\n%q", err, shown)
	}
}

// testDisposableRun runs a program in a guest that is there for it alone.
func testDisposableRun(t *testing.T, root string) {
	image := filepath.Join(root, "data/images", box+".qcow2")
	good := identity(t, image)
	r := meros(t, root, "run", box, "--disposable", "--display", "none", "--", "sh", "-c", "echo x >~/new; cat ~/new; exit 7")
	if r.code != 7 || r.out != "x\n" {
		t.Errorf("it ended with %d and printed %q\n%s", r.code, r.out, r.err)
	}
	last := 0
	for _, rung := range []string{"domain running", "kernel up", "init reached", "port open", "host key as pinned", "ready"} {
		at := strings.Index(r.err, box+": "+rung+" after ")
		if at < last {
			t.Errorf("%q is not shown, or too early:\n%s", rung, r.err)
		}
		last = max(at, last)
	}
	if now := strings.Split(identity(t, image), ",")[0]; now != strings.Split(good, ",")[0] {
		t.Errorf("the image is another: %s, was %s", now, good)
	}
	if left := names(t, filepath.Join(root, "data/state/disposable/*")); len(left) > 0 {
		t.Errorf("what it wrote is left: %q", left)
	}
	if r := mustRun(t, root, "info", box); !slices.Contains(strings.Fields(r.out), "off") {
		t.Errorf("it still runs:\n%s", r.out)
	}
}

// testNoRootFS boots a kernel that finds no root file system: init ends long
// before its time is up.
func testNoRootFS(t *testing.T, root string) {
	const initrd = "<initrd>$INITRD_IMG</initrd>"
	replaceIn(t, root, "mos_demo/libvirt/box.xml", initrd, "<initrd>"+filepath.Join(root, "data/empty")+"</initrd>")
	defer replaceIn(t, root, "mos_demo/libvirt/box.xml", "<initrd>"+filepath.Join(root, "data/empty")+"</initrd>", initrd)
	if err := os.WriteFile(filepath.Join(root, "data/empty"), make([]byte, 512), 0o644); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	r := meros(t, root, "init", box, "--disposable")
	wantFailure(t, r, 1, `after "kernel up": Kernel panic - not syncing: VFS: Unable to mount root fs`, "the last lines of its console", box+".console.log", "hint: root=")
	if took := time.Since(started); took > time.Minute {
		t.Errorf("it took %s", took)
	}
	if earlier := names(t, filepath.Join(root, "data/log", box+".console.*")); len(earlier) < 2 {
		t.Errorf("no earlier boot's log is kept: %q", earlier)
	}
	// Without an address there is no session, and no less of a panic.
	const address = `<network network_addr="10.60.7.1" ip_addr="10.60.7.2" />`
	replaceIn(t, root, "mos_demo/build/box.xml", address, "<!-- address -->")
	defer replaceIn(t, root, "mos_demo/build/box.xml", "<!-- address -->", address)
	wantFailure(t, meros(t, root, "init", box, "--disposable"), 1, `after "kernel up": Kernel panic - not syncing: VFS: Unable to mount root fs`)
}
