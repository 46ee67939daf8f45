package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/layout"
)

const (
	// connectLimit bounds how long a guest may take to accept a connection.
	connectLimit = 10 * time.Second
	// handshakeLimit bounds the SSH handshake. An emulated guest needs 0.6 s when
	// it is idle, many times that while it boots.
	handshakeLimit = 60 * time.Second
)

// ciphers and macs begin with what an emulated guest deciphers fastest: scp of 64 MiB takes
// 4.6 s with the first of both, 6.9 with SHA-256, 7.6 with ChaCha20 and 7.8 with GCM. In
// ChaCha20 a quarter of the time is byte shuffles, which TCG does a byte at a time.
var (
	ciphers = []string{
		ssh.CipherAES128CTR,
		ssh.CipherChaCha20Poly1305,
		ssh.CipherAES128GCM, ssh.CipherAES256GCM,
		ssh.CipherAES192CTR, ssh.CipherAES256CTR,
	}
	macs = []string{ssh.HMACSHA512ETM, ssh.HMACSHA256ETM, ssh.HMACSHA512, ssh.HMACSHA256}
)

// Conn is an authenticated connection to a target. Close it.
type Conn struct {
	fullID string
	shared string // the shared folder in the guest, from the user's home
	client *ssh.Client
	pulse  *pulse

	// alone opens a connection that is nobody else's; nil where this one is.
	alone func(ctx context.Context) (*Conn, error)
}

// Dial logs in to a target as the recipe's user. Only the host key that was
// made when the target was built is accepted. ctx bounds the attempt, not the
// connection. The error is a *DialError, or wraps ErrNoSession, or is the cause
// of ctx's end.
func Dial(ctx context.Context, paths layout.Paths, t *family.Target) (*Conn, error) {
	d, err := newDialer(paths, t)
	if err != nil {
		return nil, err
	}
	return d.dial(ctx)
}

// Ready reports whether a session can be opened: nil when a login was accepted
// within limit, else a *DialError with the stage at which it stands, or the cause
// of ctx's end. passed is told of the stages that lie behind: StagePort when the
// port is open, StageHostKey when the key is the pinned one.
func Ready(ctx context.Context, paths layout.Paths, t *family.Target, limit time.Duration, passed func(Stage)) error {
	d, err := newDialer(paths, t)
	if err != nil {
		return err
	}
	d.connect, d.handshake, d.passed = limit, limit, passed
	c, err := d.dial(ctx)
	if err != nil {
		return err
	}
	return c.Close()
}

func recipeFile(t *family.Target) string {
	if t.BuildFile == "" {
		return "build/" + t.Name + ".xml"
	}
	return t.BuildFile
}

// dialer is one attempt to log in.
type dialer struct {
	target *family.Target
	addr   string
	client ssh.Signer
	pinned ssh.PublicKey

	connect, handshake time.Duration // at most
	every              time.Duration // a tick of the pulse

	passed func(Stage) // told of each stage that lies behind

	wrongKey error       // set when the host key is not the pinned one
	asked    atomic.Bool // whether the client key was asked for
}

func newDialer(paths layout.Paths, t *family.Target) (*dialer, error) {
	if !t.HasSession() {
		err := fmt.Errorf("%s: %w: the recipe names no user or no address for it", t.FullID(), ErrNoSession)
		return nil, hint.Add(err, "add <details username=…/> and <network ip_addr=…/> to %s", recipeFile(t))
	}
	d := &dialer{
		target: t, addr: netip.AddrPortFrom(t.Addr, uint16(t.SSHPort)).String(),
		connect: connectLimit, handshake: handshakeLimit, every: tick, passed: func(Stage) {},
	}
	var err error
	if d.client, d.pinned, err = clientKeys(paths, t.FullID()); err != nil {
		return nil, d.keysError(err)
	}
	return d, nil
}

func (d *dialer) dial(ctx context.Context) (*Conn, error) {
	tcp, err := (&net.Dialer{Timeout: d.connect}).DialContext(ctx, "tcp", d.addr)
	if err != nil {
		return nil, d.portError(ctx, err)
	}
	d.passed(StagePort)
	return d.login(ctx, tcp)
}

// login does all that comes after the network connection, which it closes unless
// it returns one that is logged in.
func (d *dialer) login(ctx context.Context, tcp net.Conn) (*Conn, error) {
	link := &pulse{Conn: tcp, every: d.every}
	stop := context.AfterFunc(ctx, func() { _ = tcp.Close() })
	err := tcp.SetDeadline(time.Now().Add(d.handshake))
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	conn, chans, reqs, err := ssh.NewClientConn(link, d.addr, d.config())
	if !stop() && err == nil { // ctx ended at the last moment and closed the link
		_ = conn.Close()
		return nil, context.Cause(ctx)
	}
	if err != nil {
		_ = tcp.Close()
		return nil, d.loginError(ctx, link, err)
	}
	if err := tcp.SetDeadline(time.Time{}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c := &Conn{fullID: d.target.FullID(), shared: d.target.SharedDir, client: ssh.NewClient(conn, chans, reqs), pulse: link}
	go link.watch(c.client)
	return c, nil
}

func (d *dialer) config() *ssh.ClientConfig {
	return &ssh.ClientConfig{
		Config:            ssh.Config{Ciphers: ciphers, MACs: macs},
		User:              d.target.User,
		ClientVersion:     "SSH-2.0-meros",
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
		HostKeyCallback:   d.checkHostKey,
		Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			d.asked.Store(true)
			return []ssh.Signer{d.client}, nil
		})},
	}
}

func (d *dialer) checkHostKey(_ string, _ net.Addr, key ssh.PublicKey) error {
	if bytes.Equal(key.Marshal(), d.pinned.Marshal()) {
		d.passed(StageHostKey)
		return nil
	}
	d.wrongKey = fmt.Errorf("the host key is %s, not the pinned %s",
		ssh.FingerprintSHA256(key), ssh.FingerprintSHA256(d.pinned))
	return d.wrongKey
}

func (d *dialer) fail(stage Stage, err error) *DialError {
	return &DialError{FullID: d.target.FullID(), Addr: d.addr, Stage: stage, Err: err}
}

func (d *dialer) keysError(err error) error {
	e := &DialError{FullID: d.target.FullID(), Stage: StageKeys, Err: err}
	if !errors.Is(err, os.ErrNotExist) {
		return e
	}
	e.Err = fmt.Errorf("it has not been built: %w", err)
	return hint.Add(e, "meros build %s %s", d.target.Family, d.target.Name)
}

func (d *dialer) portError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return d.advise(d.fail(StagePort, plainNet(err)))
}

// advise adds what helps when it is not known that the guest runs: something else
// may answer at its address, such as a router that takes every connection.
func (d *dialer) advise(err error, first ...string) error {
	id := d.target.FullID()
	lines := append(first, fmt.Sprintf("meros info %s shows whether it runs", id),
		fmt.Sprintf("if it does, meros console %s gets in without the network", id), fmt.Sprintf("else start it with meros init %s", id))
	for _, words := range slices.Backward(lines) { // the last that is added is the first that is shown
		err = hint.Add(err, "%s", words)
	}
	return err
}

func (d *dialer) loginError(ctx context.Context, link *pulse, err error) error {
	_, noAlgorithm := errors.AsType[*ssh.AlgorithmNegotiationError](err)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case d.wrongKey != nil:
		return hint.Add(d.fail(StageHostKey, d.wrongKey),
			"something else answers at that address, or the guest's keys were replaced: do not trust it; building and initialising %s again gives it its pinned key back", d.target.FullID())
	case noAlgorithm && strings.Contains(err.Error(), "host key"):
		return hint.Add(d.fail(StageHostKey, fromGuest(fmt.Errorf("it has no ed25519 host key, and only that kind is pinned: %w", err))),
			"something else answers at that address, or the guest's sshd was given another key: build %s again", d.target.FullID())
	case link.heard.Load() == 0:
		return d.advise(d.fail(StageBanner, fmt.Errorf("no answer from an SSH server: %w", plainNet(err))),
			"if it is still booting, wait")
	case d.asked.Load() && strings.Contains(err.Error(), "unable to authenticate"):
		return hint.Add(d.fail(StageLogin, fmt.Errorf("login as %s refused", d.target.User)),
			"if it is still booting, wait; else its authorized_keys is not what meros built into it: build %s again", d.target.FullID())
	}
	return d.advise(d.fail(StageProtocol, fromGuest(plainNet(err))))
}

// plainNet strips a network error of the repetition of its address, and a bare
// end of file of its bareness.
func plainNet(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) || os.IsTimeout(err) {
		return errors.New("timed out")
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	if strings.HasSuffix(err.Error(), "EOF") {
		return errors.New("the other side closed the connection")
	}
	return err
}

// Close ends the connection and everything on it.
func (c *Conn) Close() error {
	err := c.client.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// lost says that the connection ended before the work on it did, and what helps.
func (c *Conn) lost(why string) error {
	err := fmt.Errorf("%s: %w: %s", c.fullID, ErrLost, why)
	return hint.Add(hint.Add(err, "if it does, meros console %s gets in without the network", c.fullID),
		"meros info %s shows whether it runs", c.fullID)
}

// fault words an error of an operation on the connection: a link that ended is
// ErrLost, whatever the operation made of it.
func (c *Conn) fault(err error) error {
	if _, local := errors.AsType[localFault](err); err == nil || local {
		return err
	}
	if why := c.pulse.dead.Load(); why != nil {
		return c.lost(*why)
	}
	if c.pulse.ended.Load() {
		return c.lost("the guest or the network ended it")
	}
	return fromGuest(err)
}
