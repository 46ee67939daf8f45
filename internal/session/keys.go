package session

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"meros/internal/hint"
	"meros/internal/layout"
)

// Identity is what a guest is given so that sessions can be opened on it.
type Identity struct {
	AuthorizedKey []byte // a line for authorized_keys
	HostPrivate   []byte // sshd's ed25519 host key, OpenSSH format
	HostPublic    []byte // its public half, a line
}

// MakeKeys makes a target's client key and host key where they are not there
// yet and returns what the guest needs of them. Keys that exist are kept; a
// public half that is missing or wrong is made anew from the private one.
func MakeKeys(paths layout.Paths, fullID string) (Identity, error) {
	return identity(paths, fullID, func(file, comment string) (private, public []byte, err error) {
		return makePair(paths, file, comment)
	})
}

// ReadKeys returns what MakeKeys would of keys that exist, and makes nothing. The error
// wraps fs.ErrNotExist when one does not.
func ReadKeys(paths layout.Paths, fullID string) (Identity, error) {
	return identity(paths, fullID, readPair)
}

func identity(paths layout.Paths, fullID string, pair func(file, comment string) (private, public []byte, err error)) (Identity, error) {
	_, authorized, err := pair(paths.ClientKey(fullID), fullID)
	if err != nil {
		return Identity{}, fmt.Errorf("client key of %s: %w", fullID, err)
	}
	private, public, err := pair(paths.HostKey(fullID), fullID+".host")
	if err != nil {
		return Identity{}, fmt.Errorf("host key of %s: %w", fullID, err)
	}
	return Identity{AuthorizedKey: authorized, HostPrivate: private, HostPublic: public}, nil
}

// makePair returns the key pair at file, made if it is not there.
func makePair(paths layout.Paths, file, comment string) (private, public []byte, err error) {
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		key, err := newKey(comment)
		if err == nil {
			err = writeKey(paths, file, key)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	private, public, err = readPair(file, comment)
	if err != nil {
		return nil, nil, err
	}
	if have, err := os.ReadFile(file + ".pub"); err == nil && bytes.Equal(have, public) {
		return private, public, nil
	}
	return private, public, paths.WriteFile(file+".pub", public, 0o644)
}

// readPair returns the private key in file and its public half: the one that lies
// beside it, unless that is missing or wrong.
func readPair(file, comment string) (private, public []byte, err error) {
	if private, err = os.ReadFile(file); err != nil {
		return nil, nil, err
	}
	public, err = publicHalf(private, comment)
	if err != nil {
		return nil, nil, hint.Add(fmt.Errorf("%s: %w", file, err), "delete %s to have a new key made, then build the target again", file)
	}
	if have, err := os.ReadFile(file + ".pub"); err == nil && sameKey(have, public) {
		public = have
	}
	return private, public, nil
}

// writeKey puts a private key in place in a folder that only the owner can enter.
func writeKey(paths layout.Paths, file string, private []byte) error {
	if err := paths.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return paths.WriteFile(file, private, 0o600)
}

func newKey(comment string) ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}

func publicHalf(private []byte, comment string) ([]byte, error) {
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil {
		return nil, err
	}
	if kind := signer.PublicKey().Type(); kind != ssh.KeyAlgoED25519 {
		return nil, fmt.Errorf("is of type %s, want %s", kind, ssh.KeyAlgoED25519)
	}
	line := ssh.MarshalAuthorizedKey(signer.PublicKey())
	return append(line[:len(line)-1], []byte(" "+comment+"\n")...), nil
}

func sameKey(a, b []byte) bool {
	keyA, _, _, _, errA := ssh.ParseAuthorizedKey(a)
	keyB, _, _, _, errB := ssh.ParseAuthorizedKey(b)
	return errA == nil && errB == nil && string(keyA.Marshal()) == string(keyB.Marshal())
}

// clientKeys reads what a connection needs: the client's private key and the
// host's public one.
func clientKeys(paths layout.Paths, fullID string) (ssh.Signer, ssh.PublicKey, error) {
	private, err := os.ReadFile(paths.ClientKey(fullID))
	if err != nil {
		return nil, nil, err
	}
	client, err := ssh.ParsePrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", paths.ClientKey(fullID), err)
	}
	public, err := os.ReadFile(paths.HostKey(fullID) + ".pub")
	if err != nil {
		return nil, nil, err
	}
	host, _, _, _, err := ssh.ParseAuthorizedKey(public)
	if err != nil {
		return nil, nil, fmt.Errorf("%s.pub: %w", paths.HostKey(fullID), err)
	}
	return client, host, nil
}
