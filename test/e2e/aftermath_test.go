package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// kill ends processes of a private host as a power cut would, and waits until they
// are gone.
func kill(t *testing.T, programs ...string) {
	t.Helper()
	gone := func() bool {
		left := 0
		for _, file := range names(t, "/proc/[0-9]*/comm") {
			comm, err := os.ReadFile(file)
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			for _, program := range programs {
				if err == nil && strings.HasPrefix(string(comm), program) && stateOf(pid) != "Z" {
					left++
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
		return left == 0
	}
	for deadline := time.Now().Add(30 * time.Second); !gone(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q live on", programs)
		}
	}
}

// reboot leaves of a private host what a power cut would: the disk.
func reboot(t *testing.T) {
	t.Helper()
	kill(t, "libvirtd", "virtlogd", "qemu-system", "dnsmasq")
	for _, link := range names(t, "/sys/class/net/*") {
		// The kernel's own, as lo, stay.
		_ = exec.Command("ip", "link", "del", filepath.Base(link)).Run()
	}
	do(t, "nft", "flush", "ruleset")
	for _, file := range names(t, "/run/*") {
		switch filepath.Base(file) {
		case "bin", "qemu.conf", "virtlogd.conf": // what makes it a host
		default:
			removeAll(t, file)
		}
	}
	if err := os.MkdirAll("/run/lock", 0o755); err != nil {
		t.Fatal(err)
	}
	startLogd(t)
	startLibvirtd(t)
}

// testReboot cuts the host's power while a family runs.
func testReboot(t *testing.T, root string) {
	used := everything(t, root)
	reboot(t)
	fresh := everything(t, root)
	mustRun(t, root, "init", tinyFamily, "--disposable")
	reboot(t)
	// What is left is thrown away, and without a recipe.
	recipe, hidden := filepath.Join(root, "conf/target", tinyFamily), filepath.Join(root, "hidden")
	if err := os.Rename(recipe, hidden); err != nil {
		t.Fatal(err)
	}
	mustRun(t, root, "shutdown")
	if err := os.Rename(hidden, recipe); err != nil {
		t.Fatal(err)
	}
	wantEverything(t, root, fresh)
	// Or init goes on from there.
	mustRun(t, root, "init", tinyFamily, "--disposable")
	reboot(t)
	if r := mustRun(t, root, "info", tiny); !strings.Contains(r.out, "off") {
		t.Errorf("after a power cut info says\n%s", r.out)
	}
	mustRun(t, root, "init", tinyFamily)
	if r := mustRun(t, root, "info", tiny); !strings.Contains(r.out, "running") || strings.Contains(r.out, "disposable") {
		t.Errorf("after another init:\n%s", r.out)
	}
	if left := names(t, filepath.Join(root, "data/state/disposable/*")); len(left) > 0 {
		t.Errorf("what a disposable guest wrote before the power cut is left: %q", left)
	}
	mustRun(t, root, "shutdown", "--force")
	wantEverything(t, root, used)
}

// testLibvirtdAway has libvirtd die, and a guest meanwhile.
func testLibvirtdAway(t *testing.T, root string) {
	mustRun(t, root, "init", tinyFamily, "--disposable")
	told, stop := followEvents(t, root)
	defer stop()
	killLibvirtd(t)
	for _, args := range [][]string{{"shutdown", tinyFamily}, {"shutdown"}, {"init", tinyFamily}} {
		wantFailure(t, meros(t, root, args...), 4, "libvirt is not reachable", "hint: start it")
	}
	if err := syscall.Kill(qemuOf(t, tiny), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	startLibvirtd(t)
	told.await(t, `"event":"off","why":"while libvirt was away"`)
	mustRun(t, root, "shutdown", tinyFamily)
	// What tells of events goes on.
	mustRun(t, root, "init", tinyFamily, "--disposable")
	told.await(t, `"event":"started"`)
}

// testStuck has a guest's QEMU stop in the middle of whatever it does: it answers
// libvirt no more.
func testStuck(t *testing.T, root string) {
	for _, args := range [][]string{{"shutdown", tinyFamily, "--grace", "1s"}, {"shutdown", "--force"}} {
		mustRun(t, root, "init", tinyFamily, "--disposable")
		if err := syscall.Kill(qemuOf(t, tiny), syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		mustRun(t, root, "info", tiny)
		mustRun(t, root, args...)
		if r := mustRun(t, root, "info", tiny); !strings.Contains(r.out, "off") {
			t.Errorf("after %v info says\n%s", args, r.out)
		}
	}
}
