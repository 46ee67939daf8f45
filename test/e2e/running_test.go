package e2e

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"meros/internal/virt/virttest"
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

// tinyThings are what libvirt, the kernel and the root have of the tiny family.
func tinyThings(t *testing.T, root string) []string {
	t.Helper()
	var found []string
	for _, args := range [][]string{{"list", "--all", "--name"}, {"net-list", "--all", "--name"}} {
		out, err := exec.Command("virsh", append([]string{"-c", "qemu:///system"}, args...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range strings.Fields(string(out)) {
			if strings.HasPrefix(name, tinyFamily) {
				found = append(found, name)
			}
		}
	}
	found = append(found, names(t, "/sys/class/net/e2e_tiny*")...)
	found = append(found, names(t, filepath.Join(root, "data/state/disposable/*"))...)
	for _, file := range names(t, "/proc/[0-9]*/cmdline") {
		if line, err := os.ReadFile(file); err == nil && strings.Contains(string(line), "guest="+tinyFamily) {
			found = append(found, "qemu")
		}
	}
	return found
}

// TestKilledAtRandom kills meros at random moments of init and shutdown: the next
// shutdown leaves nothing, and the next init brings all of it.
func TestKilledAtRandom(t *testing.T) {
	needHost(t)
	root := tinyRoot(t)
	sysctls := exec.Command("sysctl", "-n", "net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding", "net.ipv6.conf.all.forwarding")
	before, err := sysctls.Output()
	if err != nil {
		t.Fatal(err)
	}
	kill := func(args ...string) {
		cmd, _, _ := call{root: root, args: args}.command()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(rand.N(1500 * time.Millisecond))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	for i := range 30 {
		switch {
		case i%2 == 0:
			kill("init", tinyFamily, "--disposable", "--accel", "tcg")
		default:
			mustRun(t, root, "init", tinyFamily, "--disposable", "--accel", "tcg")
			kill("shutdown", tinyFamily, "--grace", "500ms")
		}
		if i%5 == 0 {
			mustRun(t, root, "init", tinyFamily, "--disposable", "--accel", "tcg")
			if r := mustRun(t, root, "info", tiny); !strings.Contains(r.out, "running") || !strings.Contains(r.out, "disposable") {
				t.Errorf("round %d: init did not complete what was half there:\n%s", i, r.out)
			}
		}
		mustRun(t, root, "shutdown", "--force")
		if left := tinyThings(t, root); len(left) > 0 {
			// A start that libvirt was asked for may come true after the shutdown.
			time.Sleep(2 * time.Second)
			mustRun(t, root, "shutdown", "--force")
			if left = tinyThings(t, root); len(left) > 0 {
				t.Fatalf("round %d: left: %q", i, left)
			}
			t.Logf("round %d: something came late", i)
		}
	}
	if after, err := exec.Command(sysctls.Path, sysctls.Args[1:]...).Output(); err != nil || string(after) != string(before) {
		t.Errorf("sysctls are %q, were %q, %v", after, before, err)
	}
}

// TestConsoleOnATerminal uses the console as a person does.
func TestConsoleOnATerminal(t *testing.T) {
	needHost(t)
	root := tinyRoot(t)
	wantFailure(t, meros(t, root, "console", tiny), 1, tiny+" does not run", "meros init")
	wantFailure(t, meros(t, root, "console", tinyFamily+"-nothing"), 5)
	mustRun(t, root, "init", tinyFamily, "--accel", "tcg")
	for _, leave := range []string{"\x1d", "q"} {
		master, tty := openPTY(t)
		setSize(t, tty, 33, 101)
		was := terminalSettings(t, tty)
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
		if now := terminalSettings(t, tty); now != was {
			t.Errorf("left by %q: the terminal is not as it was", leave)
		}
	}
	if r := mustRun(t, root, "info", tiny); !slices.Contains(strings.Fields(r.out), "off") {
		t.Errorf("after it powered itself off:\n%s", r.out)
	}
}
