package e2e

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"meros/internal/virt/virttest"
)

// TestFaults does to a family and its host what must leave nothing behind.
func TestFaults(t *testing.T) {
	needHost(t)
	if !onPrivateHost(t) {
		return
	}
	root := tinyRoot(t)
	write(t, root, tinyFamily+"/netfilter/policy.xml", `<policy><port target="box" network="lan" addr="10.64.77.2"/><allow from="host" to="box" proto="tcp" ports="22"/></policy>`, 0o644)
	// What libvirt and the kernel keep of a first time is no concern of ours.
	mustRun(t, root, "init", tinyFamily, "--disposable")
	mustRun(t, root, "shutdown", "--force")
	before := everything(t, root)
	for _, c := range []struct {
		name string
		run  func(t *testing.T, root string)
	}{
		{"meros is killed", testKilledAtRandom},
		{"libvirtd is killed in init", testLibvirtdInInit},
		{"libvirtd is killed in shutdown", testLibvirtdInShutdown},
		{"a bridge is left", testLeftBridge},
		{"qemu is killed", testQEMUKilled},
		{"the disk is full", testDiskFull},
		{"the console is flooded", testFlood},
		{"no memory", testNoMemory},
		{"the image is locked", testImageLocked},
		{"twenty at once", testTwenty},
		{"others have it", testTaken},
		{"a folder on the way is closed", testClosedFolder},
		{"two families", testTwoFamilies},
		{"other settings", testOtherSettings},
		{"libvirtd is away", testLibvirtdAway},
		{"qemu is stuck", testStuck},
		{"the host's power is cut", testReboot},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.run(t, root)
			mustRun(t, root, "shutdown", "--force")
			wantEverything(t, root, before)
		})
		if t.Failed() {
			return // what is left would be the next one's
		}
	}
}

// testKilledAtRandom kills meros at random moments of init and shutdown: the next
// shutdown leaves the host as it was, and the next init brings all of it.
func testKilledAtRandom(t *testing.T, root string) {
	// What hooks change is theirs to change back.
	write(t, root, tinyFamily+"/hooks/pre-start/10-mark", "#!/bin/sh\nsleep 0.1\n: >/tmp/marked\n", 0o755)
	write(t, root, tinyFamily+"/hooks/post-stop/10-mark", "#!/bin/sh\nsleep 0.1\nrm -f /tmp/marked\n", 0o755)
	defer remove(t, root, tinyFamily+"/hooks")
	before := everything(t, root)
	for i := range 30 {
		how := []string{"init", tinyFamily, "--disposable"}
		if i%2 == 1 {
			mustRun(t, root, how...)
			how = []string{"shutdown", tinyFamily, "--grace", "500ms"}
		}
		cmd, _, _ := call{root: root, args: how}.command()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		moment := rand.N(1200 * time.Millisecond)
		time.Sleep(moment)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if i%5 == 0 {
			mustRun(t, root, "init", tinyFamily, "--disposable")
			if r := mustRun(t, root, "info", tiny); !strings.Contains(r.out, "running") || !strings.Contains(r.out, "disposable") {
				t.Errorf("round %d: init did not complete what was half there:\n%s", i, r.out)
			}
		}
		mustRun(t, root, "shutdown", "--force")
		if names := everything(t, root); fmt.Sprint(names) != fmt.Sprint(before) {
			// A start that libvirt was asked for may come true after the shutdown.
			time.Sleep(time.Second)
			mustRun(t, root, "shutdown", "--force")
		}
		wantEverything(t, root, before)
		if t.Failed() {
			t.Fatalf("round %d: %v, killed after %s", i, how, moment)
		}
	}
}

// restartDuring kills libvirtd a while after meros was called, starts it again,
// and returns how meros ended.
func restartDuring(t *testing.T, root string, after time.Duration, args ...string) result {
	t.Helper()
	cmd, out, errs := call{root: root, args: args}.command()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(after)
	killLibvirtd(t)
	startLibvirtd(t)
	_ = cmd.Wait()
	r := result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
	t.Logf("libvirtd killed %s after %v: status %d\n%s", after, args, r.code, r.err)
	if strings.Contains(r.err, "goroutine ") {
		t.Error("a stack trace is no error message")
	}
	if r.code != 0 && !strings.Contains(r.err, "libvirt") {
		t.Error("the error does not name libvirt")
	}
	return r
}

func testLibvirtdInInit(t *testing.T, root string) {
	for _, after := range []time.Duration{100, 300, 500} {
		restartDuring(t, root, after*time.Millisecond, "init", tinyFamily)
		mustRun(t, root, "init", tinyFamily)
		if r := mustRun(t, root, "info", tiny); !strings.Contains(r.out, "running") {
			t.Errorf("init did not complete what was half there:\n%s", r.out)
		}
		mustRun(t, root, "shutdown", "--force")
	}
}

func testLibvirtdInShutdown(t *testing.T, root string) {
	for _, after := range []time.Duration{50, 700} {
		mustRun(t, root, "init", tinyFamily)
		restartDuring(t, root, after*time.Millisecond, "shutdown", tinyFamily, "--grace", "800ms")
		mustRun(t, root, "shutdown", "--force")
	}
}

// testLeftBridge makes what a libvirtd leaves that dies between making a bridge and
// noting it, of which its rules are a part: shutdown, with a name and without, and init know whose it is. Another's
// bridge of that name stays, as taken_test.go sees.
func testLeftBridge(t *testing.T, root string) {
	const bridge = "e2e_tiny_lan"
	mustRun(t, root, "init", tinyFamily)
	address, err := os.ReadFile("/sys/class/net/" + bridge + "/address")
	if err != nil {
		t.Fatal(err)
	}
	mustRun(t, root, "shutdown", "--force")
	for _, act := range [][]string{{"shutdown"}, {"shutdown", tinyFamily}, {"init", tinyFamily}} {
		command(t, "ip", "link", "add", bridge, "address", strings.TrimSpace(string(address)), "type", "bridge")
		command(t, "ip", "link", "set", bridge, "up")
		command(t, "nft", "add rule ip filter LIBVIRT_INP iifname "+bridge+" tcp dport 67 counter accept")
		if r := mustRun(t, root, act...); !strings.Contains(r.err, "left the bridge "+bridge) {
			t.Errorf("%v says nothing of the bridge:\n%s", act, r.err)
		}
		if _, err := os.Stat("/sys/class/net/" + bridge); (err == nil) != (act[0] == "init") {
			t.Errorf("after %v: the bridge: %v", act, err)
		}
	}
}

// qemuOf is the process of a guest.
func qemuOf(t *testing.T, fullID string) int {
	t.Helper()
	for _, file := range names(t, "/proc/[0-9]*/cmdline") {
		if line, err := os.ReadFile(file); err == nil && strings.Contains(string(line), "guest="+fullID+",") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			return pid
		}
	}
	t.Fatalf("no qemu runs %s", fullID)
	return 0
}

// followEvents has meros tell events until stop is called.
func followEvents(t *testing.T, root string) (told *lockedBuffer, stop func()) {
	t.Helper()
	cmd, _, _ := call{root: root, args: []string{"events"}}.command()
	told = &lockedBuffer{}
	cmd.Stdout = told
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // until it listens
	return told, func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
}

func testQEMUKilled(t *testing.T, root string) {
	mustRun(t, root, "init", tinyFamily, "--disposable")
	told, stop := followEvents(t, root)
	defer stop()
	if err := syscall.Kill(qemuOf(t, tiny), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	told.await(t, `"event":"off","why":"`)
	if r := mustRun(t, root, "info", tiny); !strings.Contains(r.out, "off") {
		t.Errorf("info says\n%s", r.out)
	}
	mustRun(t, root, "init", tinyFamily, "--disposable")
	if r := mustRun(t, root, "info", tiny); !strings.Contains(r.out, "running") {
		t.Errorf("after another init:\n%s", r.out)
	}
}

// testDiskFull has a disposable guest write where nothing is left.
func testDiskFull(t *testing.T, root string) {
	dir := filepath.Join(root, "data/state/disposable")
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=260k,mode=755"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		mustRun(t, root, "shutdown", "--force")
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	mustRun(t, root, "init", tinyFamily, "--disposable")
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 1<<20), 0o644); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	told, stop := followEvents(t, root)
	defer stop()
	keys, typing := io.Pipe()
	defer typing.Close()
	go func() {
		for err := error(nil); err == nil; time.Sleep(200 * time.Millisecond) {
			_, err = typing.Write([]byte("w"))
		}
	}()
	console, _, _ := call{root: root, args: []string{"console", tiny}, stdin: keys}.command()
	if err := console.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = console.Process.Kill(); keys.Close(); _ = console.Wait() }()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		r := mustRun(t, root, "info", tiny)
		if strings.Contains(r.out, "paused") && strings.Contains(r.out, "is the host's disk full?") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("info says\n%s", r.out)
		}
	}
	told.await(t, `"event":"paused","why":"its disk could not be written"`)
	// Room is made, and init lets it run on.
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	mustRun(t, root, "init", tinyFamily, "--disposable")
	told.await(t, `"event":"resumed"`)
	if r := mustRun(t, root, "info", tiny); !strings.Contains(r.out, "running") {
		t.Errorf("with room again:\n%s", r.out)
	}
}

// testFlood has a guest print many times what is kept.
func testFlood(t *testing.T, root string) {
	mustRun(t, root, "init", tinyFamily, "--disposable")
	keys, typing := io.Pipe()
	go func() {
		for err := error(nil); err == nil; time.Sleep(10 * time.Millisecond) {
			_, err = typing.Write([]byte(strings.Repeat("flood!\n", 200)))
		}
	}()
	console, _, _ := call{root: root, args: []string{"console", tiny}, stdin: keys}.command()
	if err := console.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = console.Process.Kill(); keys.Close(); _ = console.Wait() }()
	log := filepath.Join(root, "data/log", tiny+".console.log")
	for deadline := time.Now().Add(30 * time.Second); len(names(t, log+".2")) == 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log is never parted: %q", names(t, log+"*"))
		}
	}
	time.Sleep(2 * time.Second)
	parts, sum := names(t, log+"*"), int64(0)
	for _, part := range parts {
		if info, err := os.Stat(part); err == nil {
			sum += info.Size()
		}
	}
	if len(parts) > 4 || sum > 5*maxLogPart {
		t.Errorf("it takes %d bytes in %q", sum, parts)
	}
	mustRun(t, root, "shutdown", "--force")
	mustRun(t, root, "init", tinyFamily, "--disposable")
	if parts := names(t, log+".*"); len(parts) > 0 {
		t.Errorf("after another start there are parts of the one before: %q", parts)
	}
}

func testNoMemory(t *testing.T, root string) {
	r := meros(t, root, "init", tinyFamily, "--disposable", "--memory", "60000G")
	wantFailure(t, r, 1, "start "+tiny, "cannot set up guest memory", "--memory gives each guest less")
}

func testImageLocked(t *testing.T, root string) {
	image := filepath.Join(root, "data/images", tiny+".qcow2")
	holder := exec.Command("qemu-system-x86_64", "-machine", "none", "-nographic", "-monitor", "none", "-S", "-drive", "if=none,file="+image)
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Process.Kill(); _ = holder.Wait() }()
	time.Sleep(time.Second) // until it has opened it
	for _, args := range [][]string{{"init", tinyFamily}, {"init", tinyFamily, "--disposable"}} {
		wantFailure(t, meros(t, root, args...), 1, "its image "+image+" is in use by qemu-system", "process "+strconv.Itoa(holder.Process.Pid))
	}
}

// testTwenty starts and stops a family of twenty.
func testTwenty(t *testing.T, root string) {
	const many = "e2e_many"
	write(t, root, many+"/libvirt/lan.xml", `<network><bridge name="e2e_many_lan"/><dns enable="no"/><ip address="10.64.78.1" prefix="24"/></network>`, 0o644)
	defer remove(t, root, many)
	disk := virttest.Guest()
	for i := range 20 {
		name := fmt.Sprintf("g%02d", i)
		write(t, root, many+"/libvirt/"+name+".xml", virttest.OnNetwork(), 0o644)
		image := filepath.Join(root, "data/images", many+"-"+name+".qcow2")
		raw := image + ".raw"
		if err := os.WriteFile(raw, disk, 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("qemu-img", "convert", "-O", "qcow2", raw, image).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		defer os.Remove(image)
		os.Remove(raw)
	}
	mustRun(t, root, "init", many)
	if r := mustRun(t, root, "info", many); strings.Count(r.out, "running") != 20 {
		t.Errorf("info says\n%s", r.out)
	}
	mustRun(t, root, "shutdown", many, "--force")
}
