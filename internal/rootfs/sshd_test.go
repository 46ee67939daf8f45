package rootfs

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/hint"
	"meros/internal/proc"
)

// TestSSHDConfig holds all that a guest's sshd is told against a file that one reads as
// a whole, and has this host's sshd say what it makes of it.
func TestSSHDConfig(t *testing.T) {
	const golden = "testdata/sshd.conf"
	got := sshdConfig("user", 2022)
	if os.Getenv("MEROS_UPDATE") != "" {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || got != string(want) {
		t.Errorf("sshd's configuration:\n%s\nwant, %v:\n%s", got, err, want)
	}
	if root := sshdConfig("root", 22); !strings.Contains(root, "\nPermitRootLogin prohibit-password\nAllowUsers root\n") {
		t.Errorf("with root for its user:\n%s", root)
	}

	sshd, err := proc.Find("sshd")
	if err != nil {
		t.Skip("this host has no sshd: openssh-server is not installed")
	}
	dir := t.TempDir()
	more := "Include " + dir + "/*.conf\nPort 22\nPasswordAuthentication yes\nAllowAgentForwarding yes\nAllowUsers second\n"
	for name, content := range map[string]string{"sshd_config": more, "10-meros.conf": strings.Replace(got, "/etc/ssh/ssh_host", dir+"/ssh_host", 1)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := (proc.Host{}).Run(t.Context(), proc.Cmd{Argv: []string{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "ssh_host_ed25519_key")}}); err != nil {
		t.Skip(err)
	}
	var out, errs bytes.Buffer
	argv := []string{sshd, "-T", "-f", filepath.Join(dir, "sshd_config")}
	if os.Geteuid() == 0 { // it wants a folder that only its service makes
		argv = append([]string{"unshare", "--mount", "sh", "-c", `mount -t tmpfs run /run && mkdir -m 755 /run/sshd && exec "$@"`, "sh"}, argv...)
	}
	if err := (proc.Host{}).Run(t.Context(), proc.Cmd{Argv: argv, Stdout: &out, Stderr: &errs}); err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	effective := "\n" + out.String()
	for _, line := range []string{
		"passwordauthentication no", "kbdinteractiveauthentication no", "permitrootlogin no", "x11forwarding no",
		"allowagentforwarding no", "pubkeyauthentication yes", "allowusers user", "allowusers second",
		"acceptenv LANG", "acceptenv LC_*", "acceptenv COLORTERM", "permitemptypasswords no",
	} {
		if !strings.Contains(effective, "\n"+line+"\n") {
			t.Errorf("sshd does not take %q", line)
		}
	}
	if !strings.Contains(effective, "\nport 2022\n") {
		t.Errorf("sshd listens elsewhere")
	}
	for _, list := range []string{"ciphers", "macs", "kexalgorithms"} {
		_, line, _ := strings.Cut(effective, "\n"+list+" ")
		line, _, _ = strings.Cut(line, "\n")
		for _, weak := range []string{"-cbc", "3des", "arcfour", "md5", "sha1", "umac-64", "ecdh-sha2", "group1-", "group14-"} {
			if line == "" || strings.Contains(line, weak) {
				t.Errorf("%s %q: has %q in it", list, line, weak)
			}
		}
	}
}

// A guest whose sshd would not read its port is not packed.
func TestSSHDReadsDropIns(t *testing.T) {
	for config, ok := range map[string]bool{
		"Include /etc/ssh/sshd_config.d/*.conf\n":            true,
		"# first\n include\t/etc/ssh/sshd_config.d/*.conf\n": true,
		"#Include /etc/ssh/sshd_config.d/*.conf\nPort 22\n":  false,
		"":                                       false,
		"Port 2022\nPasswordAuthentication no\n": true,
		"Port 20222\n":                           false,
		"ListenAddress 0.0.0.0:2022\n":           true,
		"Include /etc/ssh/more.conf\n":           false,
	} {
		root := t.TempDir()
		lay(t, root, "etc/ssh/")
		if err := os.WriteFile(filepath.Join(root, "etc/ssh/sshd_config"), []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
		err := tree{root}.readsDropIns(2022)
		if (err == nil) != ok || err != nil && len(hint.Of(err)) == 0 {
			t.Errorf("%q: %v", config, err)
		}
	}
	if err := (tree{t.TempDir()}).readsDropIns(2022); err != nil {
		t.Errorf("no sshd_config: %v", err)
	}
}
