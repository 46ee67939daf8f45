package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"meros/internal/ui/uitest"
)

const box = "mos_demo-box"

// TestDemo follows mos_demo from its recipe to a guest that is gone again.
func TestDemo(t *testing.T) {
	needHost(t)
	before := lookAtHost(t)
	root := newRoot(t)
	t.Cleanup(func() { meros(t, root, "shutdown", "--force") })

	t.Run("init without an image", func(t *testing.T) {
		wantFailure(t, meros(t, root, "init", "mos_demo"), 1, "image", "meros build mos_demo")
	})
	addTraces(t, root)
	mustRun(t, root, "build", "mos_demo")
	wantSmallInitrd(t, root, box)
	wantNothingHalfMade(t, root)
	wantHost(t, before)
	t.Run("nothing changed", func(t *testing.T) {
		if r := mustRun(t, root, "build", "mos_demo"); !strings.Contains(r.err, "mos_demo-box is up to date") {
			t.Errorf("a second build says:\n%s", r.err)
		}
	})
	t.Run("faulty builds", func(t *testing.T) { testFaultyBuilds(t, root) })
	t.Run("mirrors", func(t *testing.T) { testMirrors(t, root) })
	t.Run("two builds", func(t *testing.T) { testTwoBuilds(t, root) })
	t.Run("ordinary user", func(t *testing.T) { testOrdinaryUser(t, root) })
	t.Run("killed builds", func(t *testing.T) { testKilledBuilds(t, root) })
	t.Run("hostile hooks", func(t *testing.T) { testHostileHooks(t, root) })
	t.Run("a disk that is full later", func(t *testing.T) { testFullLater(t, root) })
	t.Run("cache", func(t *testing.T) { testCache(t, root) })
	t.Run("sudo", func(t *testing.T) { testSudo(t, root) })
	t.Run("sessions without a guest", func(t *testing.T) {
		wantFailure(t, meros(t, root, "exec", box, "--", "true"), 255, box, "hint")
	})
	t.Run("Ctrl-C in init", func(t *testing.T) {
		now := lookAtHost(t)
		r := call{root: root, args: []string{"init", "mos_demo"}}.interrupt(t, func(string) bool {
			return strings.Contains(strings.Join(lookAtHost(t).processes, "\n"), "guest="+box+",") // QEMU's
		})
		wantFailure(t, r, 130)
		wantHost(t, now)
	})

	t.Run("optional target left out", func(t *testing.T) { testLeftOut(t, root) })
	if r := mustRun(t, root, "init", "mos_demo"); r.out != "" || !strings.Contains(r.err, alpine+": left out: it is optional") {
		t.Errorf("init wrote to stdout %q, to stderr:\n%s", r.out, r.err)
	}
	dropOptional(t, root)
	t.Run("guest", func(t *testing.T) { testGuest(t, root) })
	t.Run("exec", func(t *testing.T) { testExec(t, root) })
	t.Run("files", func(t *testing.T) { testFiles(t, root) })
	t.Run("connect", func(t *testing.T) { testConnect(t, root) })
	t.Run("console", func(t *testing.T) { testConsoleShell(t, root) })
	t.Run("keys", func(t *testing.T) { testKeys(t, root) })
	t.Run("running", func(t *testing.T) { testRunning(t, root) })

	if r := mustRun(t, root, "shutdown", "mos_demo"); !strings.Contains(r.err, box) {
		t.Errorf("shutdown says:\n%s", r.err)
	}
	wantHost(t, before)
	if r := mustRun(t, root, "shutdown", "mos_demo"); r.code != 0 {
		t.Errorf("a second shutdown fails:\n%s", r.err)
	}
	t.Run("disposable run", func(t *testing.T) { testDisposableRun(t, root) })
	t.Run("panic", func(t *testing.T) { testNoRootFS(t, root) })
	wantHost(t, before)
	t.Run("alpine", func(t *testing.T) { testAlpine(t, root) })
	wantHost(t, before)
	if r := mustRun(t, root, "log"); !strings.Contains(r.out, "build mos_demo: done") || !strings.Contains(r.out, "init mos_demo: status 130") {
		t.Errorf("log says:\n%s", r.out)
	}
}

// wantSmallInitrd bounds a target's initrd: with what a virtual machine's disk needs
// Debian's has 6 MiB, with all modules of its kernel several times that.
func wantSmallInitrd(t *testing.T, root, fullID string) {
	t.Helper()
	info, err := os.Stat(filepath.Join(root, "data/images", fullID+".initrd"))
	if err != nil {
		t.Error(err)
	} else if info.Size() > 10<<20 {
		t.Errorf("the initrd of %s has %d bytes, want at most 10 MiB", fullID, info.Size())
	}
}

// addTraces extends the recipe by what tells on how it was built.
func addTraces(t *testing.T, root string) {
	t.Helper()
	files := "mos_demo/rootfs/common/includes.chroot/"
	write(t, root, files+"opt/trace/setuid", "x", 0o755|os.ModeSetuid)
	write(t, root, files+"opt/trace/private", "x", 0o640)
	write(t, root, files+"opt/trace/which", "common", 0o644)
	write(t, root, "mos_demo/rootfs/box/includes.chroot/opt/trace/which", "box", 0o644)
	write(t, root, files+"home/user/.trace", "x", 0o600)
	past := time.Unix(1234567890, 0)
	dir := filepath.Join(root, "conf/target", files, "opt/trace")
	if err := os.Chtimes(filepath.Join(dir, "private"), past, past); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../trace/private", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	trace := "#!/bin/sh\nset -e\necho ${0##*/} $TARGET_FULL_ID >>/var/log/hooks\n"
	write(t, root, "mos_demo/rootfs/common/hooks/99-last-of-common", trace, 0o755)
	write(t, root, "mos_demo/rootfs/common/hooks/05-first", trace+
		"test -s /etc/resolv.conf && test -d /proc/self && test -d /sys/kernel && test -c /dev/null && test -e /dev/pts/ptmx\n"+
		"test $$ -lt 1000 || exit 8\nruncon=$(ps -e 2>/dev/null | wc -l)\n", 0o755)
	write(t, root, "mos_demo/rootfs/box/hooks/10-first-of-box", trace+"! service ssh start 2>/dev/null || true\n", 0o755)
}

// sh runs a line of shell in the guest and returns its trimmed output.
func sh(t *testing.T, root, line string) string {
	t.Helper()
	return strings.TrimSpace(mustRun(t, root, "exec", box, "--", "sh", "-c", line).out)
}

// booted waits in a guest until its boot has ended, and says how: systemd answers
// once its bus is there.
const booted = "timeout 300 sh -c 'until [ -S /run/dbus/system_bus_socket ]; do sleep 1; done'; systemctl is-system-running --wait || systemctl --failed --plain --no-legend"

func testGuest(t *testing.T, root string) {
	if got := sh(t, root, booted); got != "running" {
		t.Errorf("the boot ended so: %q", got)
	}
	for line, want := range map[string]string{
		"cat /var/log/hooks":                                       "05-first mos_demo-box\n99-last-of-common mos_demo-box\n10-first-of-box mos_demo-box",
		"stat -c '%a %U:%G' /opt/trace/setuid":                     "4755 root:root",
		"stat -c '%a %U %Y' /opt/trace/private":                    "640 root 1234567890",
		"readlink /opt/trace/link":                                 "../trace/private",
		"cat /opt/trace/which":                                     "box",
		"stat -c '%a %U:%G' /home/user/.trace":                     "600 user:user",
		"/opt/hello/hello":                                         "hello from box",
		"id -un":                                                   "user",
		"hostname":                                                 "box",
		"ls /usr/sbin/policy-rc.d 2>&1 | grep -c No":               "1",
		"ls -d /etc/resolv.conf* 2>/dev/null || true":              "",
		"findmnt -no SOURCE,FSTYPE,OPTIONS / | grep -c 'ext4.*rw'": "1",
		"lsblk -no PTTYPE /dev/vda | head -1":                      "gpt",
		"ls /boot/initrd* /boot/vmlinuz* 2>/dev/null || true":      "",
		"systemctl is-active ssh.service":                          "active",
		"ls /etc/ssh/ssh_host_*":                                   "/etc/ssh/ssh_host_ed25519_key\n/etc/ssh/ssh_host_ed25519_key.pub",
	} {
		if got := sh(t, root, line); got != want {
			t.Errorf("%s\n  prints %q\n    want %q", line, got, want)
		}
	}
	// What statfs shows as available to the user, as soon as the guest has booted:
	// it has written a little of its own by then (journal, logs).
	free, err := strconv.Atoi(sh(t, root, "stat -f -c '%a * %S' / | tr -d '\\n' | xargs -I{} sh -c 'echo $(({}))'"))
	if err != nil {
		t.Fatal(err)
	}
	if freeMB := free >> 20; freeMB < 200-20 || freeMB > 200+15 {
		t.Errorf("%d MiB are free in the guest, want about the recipe's 200", freeMB)
	}
}

func testExec(t *testing.T, root string) {
	r := call{root: root, args: []string{"exec", box, "--", "sh", "-c", "cat; echo err >&2; exit 42"}, stdin: strings.NewReader("in\x00\xff")}.run(t)
	if r.code != 42 || r.out != "in\x00\xff" || r.err != "err\n" {
		t.Errorf("exec = %q, %q, status %d, want the input, err, 42", r.out, r.err, r.code)
	}
	odd := "a b'c\"d$HOME`id`\\ *\n;&|"
	if got := mustRun(t, root, "exec", box, "--", "printf", "%s", odd).out; got != odd {
		t.Errorf("an argument arrived as %q, want %q", got, odd)
	}
	r = meros(t, root, "exec", box, "--", "sh", "-c", "kill -TERM $$")
	if r.code != 143 {
		t.Errorf("a command ended by SIGTERM gives %d, want 143", r.code)
	}
	r = call{root: root, args: []string{"exec", box, "--", "sh", "-c", "echo started >&2; sleep 4712"}}.interrupt(t, func(errs string) bool {
		return strings.Contains(errs, "started")
	})
	if r.code != 130 {
		t.Errorf("Ctrl-C in exec gives %d, want 130\n%s", r.code, r.err)
	}
	if got := sh(t, root, "pgrep -c -f 'sleep [4]712' || true"); got != "0" {
		t.Errorf("%s processes of the interrupted command live on in the guest", got)
	}
	wantFailure(t, meros(t, root, "exec", "mos_demo-bx", "--", "true"), 5, "box")
	wantFailure(t, meros(t, root, "exec", "mos_demo-../x", "--", "true"), 2)
}

func testFiles(t *testing.T, root string) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	big := make([]byte, 3<<20)
	rand.Read(big)
	for name, content := range map[string][]byte{"big": big, "sub/deeper/small": []byte("x"), " -odd näme": nil} {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Unix(1111111111, 0)
	if err := os.Chtimes(filepath.Join(tree, "big"), past, past); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(tree, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	if r := mustRun(t, root, "push", box, tree); !strings.Contains(r.err, "3 files") {
		t.Errorf("push says:\n%s", r.err)
	}
	if got, want := sh(t, root, "cd ~/mos-shared/tree && find . | LC_ALL=C sort && stat -c '%a %Y' big"), ".\n./ -odd näme\n./big\n./empty\n./sub\n./sub/deeper\n./sub/deeper/small\n640 1111111111"; got != want {
		t.Errorf("in the guest: %q, want %q", got, want)
	}
	sh(t, root, "ln -s /etc/passwd ~/mos-shared/evil; mkfifo ~/mos-shared/fifo; printf hi > ~/mos-shared/hi; chmod 4755 ~/mos-shared/hi")
	r := meros(t, root, "pull", box)
	wantFailure(t, r, 1, "evil", "fifo")
	sh(t, root, "rm ~/mos-shared/evil ~/mos-shared/fifo")
	mustRun(t, root, "pull", box)
	pulled := filepath.Join(root, "data/mos-shared", box)
	got, err := os.ReadFile(filepath.Join(pulled, "tree/big"))
	if err != nil || !bytes.Equal(got, big) {
		t.Errorf("the file came back changed: %v", err)
	}
	info, err := os.Stat(filepath.Join(pulled, "tree/big"))
	if err != nil || !info.ModTime().Equal(past) || info.Mode().Perm() != 0o640 {
		t.Errorf("it came back as %v %v, %v", info.Mode(), info.ModTime(), err)
	}
	if info, err := os.Stat(filepath.Join(pulled, "hi")); err != nil || info.Mode()&(os.ModeSetuid|0o111) != 0 {
		t.Errorf("a pulled program has mode %v, %v, want no setuid and no run bit", info.Mode(), err)
	}
	wantFailure(t, meros(t, root, "push", box, filepath.Join(dir, "nonesuch")), 1, "nonesuch")
}

func testConnect(t *testing.T, root string) {
	master, tty := uitest.OpenPTY(t, 100, 30)
	cmd, _, _ := call{root: root, args: []string{"connect", box}, env: []string{"TERM=xterm"}}.command()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = controllingTTY
	settings := uitest.Termios(t, tty)
	uitest.Resize(t, master, 111, 33)
	seen := &lockedBuffer{}
	go seen.follow(master)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	seen.await(t, "$ ")
	typeLine(t, master, "stty size; echo term=$TERM")
	seen.await(t, "33 111")
	seen.await(t, "term=xterm")
	uitest.Resize(t, master, 122, 44)
	typeLine(t, master, "sleep 1; stty size")
	seen.await(t, "44 122")
	typeLine(t, master, "exit 9")
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 9 {
		t.Errorf("connect ended with %d, want the shell's 9\n%s", code, seen)
	}
	if now := uitest.Termios(t, tty); now != settings {
		t.Error("the terminal is not as it was before")
	}
}

func testKeys(t *testing.T, root string) {
	pin := filepath.Join(root, "data/ssh_keys", box+".host.pub")
	good, err := os.ReadFile(pin)
	if err != nil {
		t.Fatal(err)
	}
	pinned, _, _, _, err := ssh.ParseAuthorizedKey(good)
	if err != nil {
		t.Fatal(err)
	}
	var offered ssh.PublicKey
	dial := func(user string, auth ...ssh.AuthMethod) error {
		c, err := ssh.Dial("tcp", "10.60.7.2:2022", &ssh.ClientConfig{
			User: user, Auth: auth, Timeout: 30 * time.Second,
			HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error { offered = key; return nil },
		})
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := dial("user", ssh.Password("user")); err == nil || !strings.Contains(err.Error(), "attempted methods [none]") {
		t.Errorf("a password login = %v, want it not even offered", err)
	}
	if offered == nil || !bytes.Equal(offered.Marshal(), pinned.Marshal()) {
		t.Error("the guest's host key is not the pinned one")
	}
	private, err := os.ReadFile(filepath.Join(root, "data/ssh_keys", box))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if err := dial("root", ssh.PublicKeys(signer)); err == nil {
		t.Error("the client key lets root in, want the recipe's user only")
	}
	if err := dial("user", ssh.PublicKeys(signer)); err != nil {
		t.Errorf("the client key does not let the user in: %v", err)
	}
	other, err := os.ReadFile(filepath.Join(root, "data/ssh_keys", box+".pub"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pin, other, 0o644); err != nil {
		t.Fatal(err)
	}
	r := meros(t, root, "exec", box, "--", "true")
	if err := os.WriteFile(pin, good, 0o644); err != nil {
		t.Fatal(err)
	}
	wantFailure(t, r, 255, "host key", "SHA256:", "hint")
	if info, err := os.Stat(filepath.Join(root, "data/ssh_keys", box)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the client key has mode %v, want 0600", info.Mode())
	}
}

// testRunning does to a running family what must not harm it.
func testRunning(t *testing.T, root string) {
	if r := mustRun(t, root, "init", "mos_demo"); !strings.Contains(r.err, "running already") {
		t.Errorf("a second init says:\n%s", r.err)
	}
	image := filepath.Join(root, "data/images", box+".qcow2")
	good := identity(t, image)
	replaceIn(t, root, "mos_demo/build/box.xml", `free_space_mb="200"`, `free_space_mb="201"`)
	wantFailure(t, meros(t, root, "build", "mos_demo"), 1, "in use", "meros shutdown "+box)
	replaceIn(t, root, "mos_demo/build/box.xml", `free_space_mb="201"`, `free_space_mb="200"`)
	if now := strings.Split(identity(t, image), ",")[0]; now != strings.Split(good, ",")[0] {
		t.Errorf("the image in use was replaced: %s, want %s", now, good)
	}
	r := mustRun(t, root, "info", "--output", "json")
	var any map[string]any
	if err := json.Unmarshal([]byte(r.out), &any); err != nil {
		t.Errorf("info --output json: %v\n%s", err, r.out)
	}
	for _, want := range []string{box, "running", "10.60.7.2"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("info lacks %q:\n%s", want, r.out)
		}
	}
	if got := fmt.Sprint(len(names(t, "/sys/class/net/mos_demo_lan"))); got != "1" {
		t.Errorf("%s bridges mos_demo_lan, want 1", got)
	}
}
