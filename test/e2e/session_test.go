package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSession(t *testing.T) {
	needHost(t)
	root := sessRoot(t)
	t.Run("ssh-config", func(t *testing.T) { testSSHConfig(t, root) })
	t.Run("what is told of it", func(t *testing.T) { testTold(t, root) })
	t.Run("sshd", func(t *testing.T) { testSSHD(t, root) })
	t.Run("master", func(t *testing.T) { testMaster(t, root) })
}

// sshConfigFile has meros write an OpenSSH configuration.
func sshConfigFile(t *testing.T, root string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(mustRun(t, root, "ssh-config").out), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// hostTool runs a program of the host, with an empty home, and returns its output.
func hostTool(t *testing.T, argv ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "SSH_AUTH_SOCK=")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func testSSHConfig(t *testing.T, root string) {
	config, dir := sshConfigFile(t, root), t.TempDir()
	for _, name := range []string{"tree/one", "tree/sub/two words"} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tree := filepath.Join(dir, "tree")
	for _, argv := range [][]string{
		{"ssh", "-F", config, sess, "id", "-un"},
		{"scp", "-F", config, "-r", tree, sess + ":by-scp"},
		{"rsync", "-e", "ssh -F " + config, "-a", tree + "/", sess + ":by-rsync/"},
		{"rsync", "-e", "ssh -F " + config, "-a", sess + ":by-scp/", filepath.Join(dir, "back") + "/"},
	} {
		if out, err := hostTool(t, argv...); err != nil {
			t.Errorf("%q: %v\n%s", argv, err, out)
		}
	}
	if got, err := os.ReadFile(filepath.Join(dir, "back/sub/two words")); err != nil || string(got) != "tree/sub/two words" {
		t.Errorf("back came %q, %v", got, err)
	}
	if out, err := hostTool(t, "diff", "-r", tree, filepath.Join(dir, "back")); err != nil {
		t.Errorf("changed on its way:\n%s", out)
	}
	// A config that includes it, and a host key that is not the pinned one.
	outer := filepath.Join(dir, "outer")
	if err := os.WriteFile(outer, []byte("Include "+config+"\nHost *\n    ConnectTimeout 60\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := hostTool(t, "ssh", "-F", outer, sess, "true"); err != nil {
		t.Errorf("included: %v\n%s", err, out)
	}
	known := filepath.Join(root, "data/ssh_keys", sess+".known_hosts")
	client, err := os.ReadFile(filepath.Join(root, "data/ssh_keys", sess+".pub"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(known, append([]byte(sess+" "), client...), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := hostTool(t, "ssh", "-F", config, sess, "true"); err == nil || !strings.Contains(out, "verification failed") {
		t.Errorf("ssh takes another host key: %v\n%s", err, out)
	}
	mustRun(t, root, "ssh-config", sess)
	if out, err := hostTool(t, "ssh", "-F", config, sess, "true"); err != nil {
		t.Errorf("ssh-config does not put the pinned key back: %v\n%s", err, out)
	}
}

// weak is what ssh-audit finds fault with, and the guest's sshd offers none of.
var weak = []string{"-cbc", "3des", "arcfour", "md5", "hmac-sha1", "group1-", "group14-", "exchange-sha1", "ecdh-sha2", "umac-64", "ssh-rsa", "ssh-dss", "ecdsa"}

// testSSHD holds what the guest's sshd makes of its configuration, and what it offers to
// whoever asks, against what meros means it to.
func testSSHD(t *testing.T, root string) {
	const ask = `ssh-keygen -q -t ed25519 -N "" -f key && /usr/sbin/sshd -T -h "$PWD/key"; rm -f key key.pub`
	effective := "\n" + mustRun(t, root, "exec", sess, "--", "sh", "-c", ask).out
	for _, line := range []string{
		"port 2022", "passwordauthentication no", "kbdinteractiveauthentication no", "permitrootlogin no", "allowusers user",
		"x11forwarding no", "allowagentforwarding no", "acceptenv LC_*", "acceptenv COLORTERM",
	} {
		if !strings.Contains(effective, "\n"+line+"\n") {
			t.Errorf("the guest's sshd does not take %q:\n%s", line, effective)
		}
	}
	out, err := hostTool(t, "ssh", "-vv", "-F", sshConfigFile(t, root), sess, "true")
	_, offered, told := strings.Cut(out, "peer server KEXINIT proposal")
	offered, _, whole := strings.Cut(offered, "debug2: compression")
	if err != nil || !told || !whole {
		t.Fatalf("ssh tells no proposal: %v\n%s", err, out)
	}
	for _, word := range weak {
		if strings.Contains(offered, word) {
			t.Errorf("the guest's sshd offers %q:\n%s", word, offered)
		}
	}
	for _, user := range []string{"root", "nobody"} {
		if out, err := hostTool(t, "ssh", "-F", sshConfigFile(t, root), "-l", user, sess, "true"); err == nil || !strings.Contains(out, "Permission denied") {
			t.Errorf("as %s: %v\n%s", user, err, out)
		}
	}
	if _, err := exec.LookPath("ssh-audit"); err != nil {
		t.Log("ssh-audit is not installed: what it finds is not looked at")
		return
	}
	addr := strings.TrimSpace(mustRun(t, root, "ip", sess).out)
	if out, err := hostTool(t, "ssh-audit", "--port=2022", "--level=fail", addr); err != nil && strings.Contains(out, "[fail]") {
		t.Errorf("ssh-audit finds faults: %v\n%s", err, out)
	}
}

func testTold(t *testing.T, root string) {
	if got := mustRun(t, root, "ip", sess).out; strings.Count(got, ".") != 3 || strings.Count(got, "\n") != 1 {
		t.Errorf("ip prints %q", got)
	}
	var ports []struct {
		Address string
		Port    int
	}
	if err := json.Unmarshal([]byte(mustRun(t, root, "ports", sess, "--output", "json").out), &ports); err != nil {
		t.Fatal(err)
	}
	if len(ports) == 0 || ports[0].Port != 2022 {
		t.Errorf("ports: %v, want that of sshd", ports)
	}
	keys := mustRun(t, root, "keys", "show", sess).out
	for _, name := range []string{sess, sess + ".host"} {
		out, err := hostTool(t, "ssh-keygen", "-lf", filepath.Join(root, "data/ssh_keys", name+".pub"))
		if err != nil || !strings.Contains(keys, strings.Fields(out)[1]) {
			t.Errorf("keys show lacks the fingerprint of %s, %q, %v:\n%s", name, out, err, keys)
		}
	}
}

// masterProcesses returns the masters of that root.
func masterProcesses(t *testing.T, root string) []string {
	t.Helper()
	var found []string
	for _, file := range names(t, "/proc/[0-9]*/cmdline") {
		line, _ := os.ReadFile(file)
		words := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
		if slices.Contains(words, root) && slices.Contains(words, "master") {
			found = append(found, file)
		}
	}
	return found
}

func wantMasters(t *testing.T, root string, n int, when string) {
	t.Helper()
	if found := masterProcesses(t, root); len(found) != n {
		t.Errorf("%s: masters %v, want %d", when, found, n)
	}
}

// warmLimit is what a command may cost on a warm master, in an emulated guest on
// a busy host: a login would take a second and more.
const warmLimit = 800 * time.Millisecond

func testMaster(t *testing.T, root string) {
	mustRun(t, root, "exec", sess, "--", "true")
	wantMasters(t, root, 1, "after exec")
	best := time.Hour
	for range 5 {
		started := time.Now()
		mustRun(t, root, "exec", sess, "--", "true")
		best = min(best, time.Since(started))
	}
	if best > warmLimit {
		t.Errorf("exec true on a warm master takes %s, want at most %s", best, warmLimit)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, root, "push", sess, file)
	mustRun(t, root, "pull", sess)
	wantMasters(t, root, 1, "after push and pull")
	for _, socket := range names(t, "/run/meros-*/"+sess+".m*") {
		if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", socket, info.Mode(), err)
		}
	}
	mustRun(t, root, "shutdown", "--force", "mos_sess")
	wantMasters(t, root, 0, "after a shutdown that cut the power")
	if left := names(t, "/run/meros-*/"+sess+".*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	mustRun(t, root, "init", "mos_sess")
	mustRun(t, root, "exec", "--no-master", sess, "--", "true")
	wantMasters(t, root, 0, "with --no-master")
	mustRun(t, root, "exec", sess, "--", "true")
	mustRun(t, root, "shutdown", "mos_sess")
	wantMasters(t, root, 0, "after a shutdown")
}
