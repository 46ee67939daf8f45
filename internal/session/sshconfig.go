package session

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/layout"
)

// SSHConfig returns a part of an ssh_config(5) by which OpenSSH's programs reach
// a target under its full id as meros does: with its key, and with no host key
// but the pinned one, which is written to a file of its own for that.
func SSHConfig(paths layout.Paths, t *family.Target) (string, error) {
	d, err := newDialer(paths, t)
	if err != nil {
		return "", err
	}
	known := t.FullID() + " " + string(ssh.MarshalAuthorizedKey(d.pinned))
	file := paths.KnownHosts(t.FullID())
	if have, err := os.ReadFile(file); err != nil || string(have) != known {
		if err := paths.WriteFile(file, []byte(known), 0o644); err != nil {
			return "", err
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Host %s\n", t.FullID())
	for _, line := range [][2]string{
		{"HostName", t.Addr.String()},
		{"Port", strconv.Itoa(t.SSHPort)},
		{"User", t.User},
		{"IdentityFile", paths.ClientKey(t.FullID())},
		{"IdentitiesOnly", "yes"},
		{"IdentityAgent", "none"},
		{"HostKeyAlias", t.FullID()},
		{"HostKeyAlgorithms", ssh.KeyAlgoED25519},
		{"UserKnownHostsFile", file},
		{"GlobalKnownHostsFile", "/dev/null"},
		{"StrictHostKeyChecking", "yes"},
		{"UpdateHostKeys", "no"},
		{"PasswordAuthentication", "no"},
		{"KbdInteractiveAuthentication", "no"},
		{"ForwardAgent", "no"},
		{"ForwardX11", "no"},
		{"Ciphers", "^" + ciphers[0]},
		{"MACs", "^" + macs[0]},
	} {
		value, err := configValue(line[1])
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "    %s %s\n", line[0], value)
	}
	return b.String(), nil
}

// configValue writes a value as ssh_config(5) reads it: a path with blanks in
// quotes, and % doubled. A quote cannot be written there at all.
func configValue(s string) (string, error) {
	if strings.ContainsAny(s, "\"\n") {
		return "", hint.Add(fmt.Errorf("%q cannot stand in an ssh_config", s), "move the root folder to a path without quotes")
	}
	if strings.HasPrefix(s, "/") {
		s = strings.ReplaceAll(s, "%", "%%")
	}
	if strings.ContainsAny(s, " \t#'\\") {
		s = `"` + s + `"`
	}
	return s, nil
}

// Fingerprint is that of one key of a target.
type Fingerprint struct {
	FullID string `json:"full_id"`
	Kind   string `json:"kind"` // client or host
	SHA256 string `json:"sha256"`
	File   string `json:"file"` // the private key
}

// Fingerprints returns those of a target's client key and host key. The error is
// a *DialError where the target has no keys.
func Fingerprints(paths layout.Paths, t *family.Target) ([]Fingerprint, error) {
	client, host, err := clientKeys(paths, t.FullID())
	if err != nil {
		return nil, (&dialer{target: t}).keysError(err)
	}
	return []Fingerprint{
		{t.FullID(), "client", ssh.FingerprintSHA256(client.PublicKey()), paths.ClientKey(t.FullID())},
		{t.FullID(), "host", ssh.FingerprintSHA256(host), paths.HostKey(t.FullID())},
	}, nil
}

// Address returns where a target's sshd listens, as host:port.
func Address(t *family.Target) string {
	return net.JoinHostPort(t.Addr.String(), strconv.Itoa(t.SSHPort))
}
