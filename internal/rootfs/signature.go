package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"meros/internal/hint"
	"meros/internal/proc"
)

// alpineSigner is the fingerprint of the key that signs Alpine's releases, as its
// page of downloads names it.
const alpineSigner = "0482D84022F52DF1C4E7CD43293ACD0907D9495A"

// maxSignature bounds a detached signature, in bytes: one of an RSA key has some 800.
const maxSignature = 64 << 10

// signature is a detached one of a file, and who has to have made it.
type signature struct {
	file    string // what was signed
	address string // of the signature at the mirror
	signer  string // fingerprint of the primary key
}

// check has gpg judge the signature, where this host has gpg and the caller's
// keyring has the key. Where it has not, the sum that the mirror itself names is
// all there is, and that is said.
func (s signature) check(ctx context.Context, r proc.Runner) error {
	if why := s.cannot(ctx, r); why != "" {
		fmt.Printf("signature of %s not checked: %s\n", filepath.Base(s.file), why)
		return nil
	}
	err := s.fetchAndVerify(ctx, r)
	if err != nil {
		return hint.Add(fmt.Errorf("%w: %s: %w", ErrMirror, s.address, err), "the download is tampered with, or signed by another key than %s: take another mirror", s.signer)
	}
	fmt.Printf("signature of %s good, by %s\n", filepath.Base(s.file), s.signer)
	return nil
}

// cannot says why the signature cannot be checked here, or "".
func (s signature) cannot(ctx context.Context, r proc.Runner) string {
	if _, err := proc.Find("gpg"); err != nil {
		return "there is no gpg"
	}
	home := os.Getenv("GNUPGHOME")
	if home == "" {
		home = filepath.Join(os.Getenv("HOME"), ".gnupg")
	}
	// gpg would make one.
	if _, err := os.Stat(home); err == nil && gpg(ctx, r, nil, "--list-keys", s.signer) == nil {
		return ""
	}
	return "the key is not in your gpg keyring: gpg --recv-keys " + s.signer
}

func (s signature) fetchAndVerify(ctx context.Context, r proc.Runner) error {
	at := s.file + ".asc"
	f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer os.Remove(at)
	if err := errors.Join(get(ctx, s.address, f, maxSignature), f.Close()); err != nil {
		return err
	}
	var status bytes.Buffer
	if err := gpg(ctx, r, &status, "--status-fd", "1", "--verify", at, s.file); err != nil {
		return fmt.Errorf("no good signature: %w", err)
	}
	return s.signedBy(status.String())
}

// signedBy looks in gpg's status lines for the primary key of a good signature
// (doc/DETAILS of GnuPG: VALIDSIG's last field).
func (s signature) signedBy(status string) error {
	var signers []string
	for line := range strings.Lines(status) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[1] == "VALIDSIG" {
			signers = append(signers, fields[len(fields)-1])
		}
	}
	if !slices.Contains(signers, s.signer) {
		return fmt.Errorf("signed by %q, want %s", signers, s.signer)
	}
	return nil
}

// gpg runs gpg with the caller's keyring, which it does not change.
func gpg(ctx context.Context, r proc.Runner, out *bytes.Buffer, args ...string) error {
	c := proc.Cmd{Argv: append([]string{"gpg", "--batch", "--no-options", "--lock-never", "--no-auto-key-retrieve", "--trust-model", "always"}, args...), Env: os.Environ()}
	if out != nil {
		c.Stdout = out
	}
	return r.Run(ctx, c)
}
