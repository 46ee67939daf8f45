package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/proc"
)

// Identity is what makes a tree this one target's: it is added last and never
// kept in a stage's result.
type Identity struct {
	Hostname      string
	User          string // "": no session
	SSHPort       int
	AuthorizedKey []byte // the client's public key, one line
	HostPrivate   []byte // the sshd's ed25519 key, OpenSSH's format
	HostPublic    []byte
	RootUUID      string // of the root file system, for fstab
	Init          family.Init
}

// Finish adds the identity to the tree at root.
func Finish(_ context.Context, _ proc.Runner, root string, id Identity) error {
	t := tree{root}
	errs := []error{
		t.add("etc/hostname", id.Hostname+"\n", 0o644, replaceAlways),
		t.add("etc/hosts", hosts(id.Hostname), 0o644, replaceNameless),
		t.add("etc/fstab", "UUID="+id.RootUUID+" / ext4 errors=remount-ro 0 1\n", 0o644, replaceUnconfigured),
		t.levelPasswordAge(),
		t.add("etc/machine-id", machineID(id.HostPrivate)+"\n", 0o444, replaceAlways),
	}
	if id.User != "" {
		errs = append(errs, t.addSSH(id))
	}
	switch id.Init {
	case family.InitOpenRC:
		errs = append(errs, t.enableServices(), t.addConsole())
	case family.InitBusybox:
		errs = append(errs, t.add("etc/inittab", busyboxInittab, 0o644, replaceAlpineInittab), t.add("etc/init.d/rcS", busyboxStart, 0o755, replaceMissing),
			t.add(powerButtonFile, powerButton, 0o755, replaceMissing))
	}
	return errors.Join(errs...)
}

// levelPasswordAge replaces the day on which a password was last changed, which
// is the day of the build, where no limit of its age counts from it (shadow(5),
// whose third and fifth fields they are).
func (t tree) levelPasswordAge() error {
	for _, name := range []string{"etc/shadow", "etc/shadow-"} {
		if err := t.rewrite(name, levelled); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// levelDay is 1 January 2020, as shadow(5) counts.
const levelDay = "18262"

func levelled(shadow string) string {
	lines := strings.Split(shadow, "\n")
	for i, line := range lines {
		fields := strings.Split(line, ":")
		if len(fields) < 5 || fields[2] == "" || fields[2] == "0" || fields[4] != "" && fields[4] != "99999" {
			continue
		}
		fields[2] = levelDay
		lines[i] = strings.Join(fields, ":")
	}
	return strings.Join(lines, "\n")
}

func hosts(name string) string {
	return "127.0.0.1 localhost\n127.0.1.1 " + name + "\n::1 localhost ip6-localhost ip6-loopback\n"
}

// machineID is stable for a target, different for every other, and tells
// nothing of either (machine-id(5)): 32 hexadecimal digits.
func machineID(secret []byte) string {
	sum := sha256.Sum256(append([]byte("meros machine-id\x00"), secret...))
	return hex.EncodeToString(sum[:16])
}

// sshdConfig is a drop-in for sshd_config(5): the port that sessions call, the
// pinned key, the recipe's user by key as the only way in, and modern algorithms. The
// first value of a word counts, so it is read before the distribution's own; but users
// of all AllowUsers are let in, so that a recipe can name more in a drop-in of its own.
func sshdConfig(user string, port int) string {
	root := "no"
	if user == "root" {
		root = "prohibit-password"
	}
	return fmt.Sprintf(`# Written by meros at build time, from the recipe's build XML.
Port %d
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin %s
AllowUsers %s
X11Forwarding no
AllowAgentForwarding no
AcceptEnv LANG LC_* COLORTERM
# What ssh-audit calls weak is taken away by name, so that any version of sshd starts.
KexAlgorithms -ecdh-sha2-*,diffie-hellman-group1-*,diffie-hellman-group14-*,diffie-hellman-group-exchange-sha1
Ciphers -*-cbc
MACs -umac-64*,umac-128@openssh.com,hmac-md5*,hmac-sha1*,hmac-sha2-256,hmac-sha2-512
`, port, root, user)
}

func (t tree) addSSH(id Identity) error {
	u, ok, err := t.lookupUser(id.User)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("the recipe's user %s is not in the rootfs any more: does a hook remove it?", id.User)
	}
	if err := t.remove("etc/ssh/ssh_host_*"); err != nil {
		return err
	}
	if err := t.readsDropIns(id.SSHPort); err != nil {
		return err
	}
	errs := []error{
		t.add("etc/ssh/ssh_host_ed25519_key", string(id.HostPrivate), 0o600, replaceAlways),
		t.add("etc/ssh/ssh_host_ed25519_key.pub", string(id.HostPublic), 0o644, replaceAlways),
		t.add("etc/ssh/sshd_config.d/10-meros.conf", sshdConfig(id.User, id.SSHPort), 0o644, replaceMissing),
		t.authorize(u, id.AuthorizedKey),
	}
	return errors.Join(errs...)
}

var (
	includeForm = regexp.MustCompile(`(?im)^[ \t]*include\b.*/sshd_config\.d/\*`)
	portForm    = regexp.MustCompile(`(?im)^[ \t]*(?:port[ \t=]+|listenaddress[ \t=].*:)([0-9]+)[ \t]*$`)
)

// readsDropIns makes sure that sshd reads what meros gives it. A recipe may well lay an
// sshd_config of its own that does not; but it has to be told the port of sessions.
func (t tree) readsDropIns(port int) error {
	const name = "etc/ssh/sshd_config"
	config, err := t.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another sshd, or none yet
	}
	if err != nil || includeForm.Match(config) {
		return err
	}
	for _, m := range portForm.FindAllSubmatch(config, -1) {
		if string(m[1]) == strconv.Itoa(port) {
			return nil
		}
	}
	err = fmt.Errorf("the guest's sshd would not listen on port %d: its /%s neither says so nor includes sshd_config.d", port, name)
	return hint.Add(err, "lay an /%s over it with the line: Include /etc/ssh/sshd_config.d/*.conf", name)
}

// authorize lets the client's key, and no other, log in as the user.
func (t tree) authorize(u account, key []byte) error {
	dir := filepath.Join(u.home, ".ssh")
	file := filepath.Join(dir, "authorized_keys")
	if err := t.add(file, string(key), 0o600, replaceAlways); err != nil {
		return err
	}
	for path, mode := range map[string]fs.FileMode{dir: 0o700, file: 0o600} {
		at, _, err := t.stat(path)
		if err != nil {
			return err
		}
		if err := os.Lchown(at, u.uid, u.gid); err != nil {
			return err
		}
		if err := os.Chmod(at, mode); err != nil {
			return err
		}
	}
	return nil
}

// replaceNameless replaces a hosts(5) that names nobody but localhost, as netbase and
// the minirootfs bring it: without its own name in there, a guest asks the network
// for it, and tells it.
func replaceNameless(old string) bool {
	for line := range strings.Lines(old) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 1 {
			return false // whatever that is, it is not theirs
		}
		for _, name := range fields[min(1, len(fields)):] {
			if name != "localhost" && name != "localhost.localdomain" && !strings.HasPrefix(name, "ip6-") {
				return false
			}
		}
	}
	return true
}

// replaceUnconfigured replaces what the bootstrap tool left for somebody to fill in.
func replaceUnconfigured(old string) bool {
	return old == "" || old == "# UNCONFIGURED FSTAB FOR BASE SYSTEM\n"
}
