package virt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/digitalocean/go-libvirt"

	"meros/internal/hint"
)

// ErrUnreachable is wrapped by every error that means that libvirt did not
// answer.
var ErrUnreachable = errors.New("libvirt is not reachable")

// defaultURI is libvirt's driver for guests that QEMU runs for the whole host.
const defaultURI = "qemu:///system"

// socketFiles are where libvirt listens: the one daemon first, else the modular
// one for QEMU, which passes calls about networks on to virtnetworkd
// (libvirt.org, daemons.html).
var socketFiles = []string{
	"/var/run/libvirt/libvirt-sock",
	"/var/run/libvirt/virtqemud-sock",
}

// URI returns which libvirt to talk to: MEROS_LIBVIRT_URI, else
// LIBVIRT_DEFAULT_URI where it names this host's system or test driver, else
// qemu:///system.
func URI(getenv func(string) string) string {
	if own := getenv("MEROS_LIBVIRT_URI"); own != "" {
		return own
	}
	if uri := getenv("LIBVIRT_DEFAULT_URI"); strings.HasPrefix(uri, "test://") || uri == defaultURI {
		return uri
	}
	return defaultURI
}

// Conn is a connection to libvirt. A call whose context ends cuts the
// connection; the next call makes a new one.
type Conn struct {
	uri     string
	sockets []string
	streams bool          // whether calls open streams
	patient time.Duration // how long libvirt may take to greet

	mu    sync.Mutex
	lib   *libvirt.Libvirt
	raw   net.Conn
	known bool // whether a connection was ever made
}

// Dial connects to the libvirt of this host. uri is qemu:///system or a
// test:/// one, with ?socket=FILE for a daemon that listens elsewhere; "" is
// qemu:///system. The error wraps ErrUnreachable.
func Dial(ctx context.Context, uri string) (*Conn, error) {
	c, err := newConn(uri)
	if err != nil {
		return nil, err
	}
	if _, _, err := c.open(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

func newConn(uri string) (*Conn, error) {
	if uri == "" {
		uri = defaultURI
	}
	u, err := url.Parse(uri)
	if err != nil || u.Host != "" || (u.Scheme != "qemu" || u.Path != "/system") && u.Scheme != "test" {
		return nil, hint.Add(fmt.Errorf("%w: %q is not a libvirt of this host", ErrUnreachable, uri),
			"unset MEROS_LIBVIRT_URI, or set it to %s", defaultURI)
	}
	c := &Conn{uri: u.Scheme + "://" + u.Path, sockets: socketFiles, patient: greetTime}
	if s := u.Query().Get("socket"); s != "" {
		c.sockets = []string{s}
	}
	return c, nil
}

// Close ends the connection.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lib == nil {
		return nil
	}
	// The polite farewell may hang on a daemon that hangs; closing the socket is
	// all that libvirt needs.
	raw := c.raw
	c.lib, c.raw = nil, nil
	return raw.Close()
}

// open returns the connection, made anew when there is none or the last is cut.
func (c *Conn) open(ctx context.Context) (*libvirt.Libvirt, net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lib != nil && c.lib.IsConnected() {
		return c.lib, c.raw, nil
	}
	raw, err := c.reach(ctx)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.patient, errMute)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	if c.streams {
		raw = newReplyFirst(raw)
	}
	lib := libvirt.NewWithDialer(fixedDialer{raw})
	if err := lib.ConnectToURI(libvirt.ConnectURI(c.uri)); err != nil {
		_ = raw.Close()
		return nil, nil, refused(ctx, err)
	}
	c.lib, c.raw, c.known = lib, raw, true
	return lib, raw, nil
}

const (
	// restartTime is how long a libvirt that was there a moment ago may be away: a
	// restart takes it half a second, many times that on a busy host.
	restartTime  = 10 * time.Second
	restartEvery = 100 * time.Millisecond
)

// greetTime is how long libvirt may take to greet: while it starts, it asks each
// QEMU what it can do, and takes connections already.
const greetTime = 2 * time.Minute

// errMute ends the wait for a libvirt that takes a connection and says nothing.
var errMute = hint.Add(fmt.Errorf("%w: it took the connection and did not answer for %s", ErrUnreachable, greetTime),
	"it hangs, or still starts: `systemctl restart libvirtd`, which leaves guests running")

// reach connects to a socket; to one that took a connection before it tries for a
// while.
func (c *Conn) reach(ctx context.Context) (net.Conn, error) {
	for deadline := time.Now().Add(restartTime); ; {
		raw, err := c.connectSocket(ctx)
		if err == nil || !c.known || ctx.Err() != nil || time.Now().After(deadline) {
			return raw, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(restartEvery):
		}
	}
}

type fixedDialer struct{ conn net.Conn }

func (d fixedDialer) Dial() (net.Conn, error) { return d.conn, nil }

// connectSocket returns a connection to the first socket that takes one.
func (c *Conn) connectSocket(ctx context.Context) (net.Conn, error) {
	var first error
	for _, file := range c.sockets {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", file)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if first == nil || !errors.Is(err, fs.ErrNotExist) {
			first = err
		}
	}
	return nil, unreachable(first)
}

const beLetIn = "join the group libvirt (usermod -aG libvirt NAME) and log in again, or use sudo"

// unreachable words why no socket took a connection.
func unreachable(err error) error {
	reason := err.Error()
	if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Addr != nil {
		reason = dial.Addr.String() + ": " + plainErrno(dial.Err)
	}
	wrapped := fmt.Errorf("%w: %s", ErrUnreachable, reason)
	if errors.Is(err, fs.ErrPermission) {
		return hint.Add(wrapped, beLetIn)
	}
	return hint.Add(wrapped, "start it: `systemctl start libvirtd`, or `./dist-conf.sh` where there is no systemd")
}

// plainErrno drops the name of the system call.
func plainErrno(err error) string {
	if call, ok := errors.AsType[*os.SyscallError](err); ok {
		err = call.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such socket, libvirt is not running"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody listens there, libvirt is not running"
	}
	return err.Error()
}

// refused words why libvirt took a connection and then did not open the driver.
func refused(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	wrapped := fmt.Errorf("%w: %v", ErrUnreachable, err)
	// An ordinary user is let in by polkit or the socket's group; what libvirt says
	// where neither does is about anything but that.
	if os.Geteuid() != 0 {
		return hint.Add(wrapped, beLetIn)
	}
	return hint.Add(wrapped, "see what libvirt says: `journalctl -u libvirtd`")
}

// call runs one call of libvirt, which ends with ctx: the connection is cut then.
func (c *Conn) call(ctx context.Context, f func(*libvirt.Libvirt) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	lib, raw, err := c.open(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	err = f(lib)
	if !stop() {
		c.cut(raw)
	}
	words, said := errors.AsType[libvirt.Error](err)
	switch {
	case said:
		words.Message = strings.TrimSpace(words.Message) // QEMU's own end in a new line
		return words
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, libvirt.ErrUnsupported):
		return err
	}
	c.cut(raw)
	return hint.Add(fmt.Errorf("%w: the connection broke: %v", ErrUnreachable, err),
		"see whether libvirt still runs: `meros doctor`")
}

// again is call for what may be done twice: it is, once, if the connection broke,
// as when libvirt is restarted.
func (c *Conn) again(ctx context.Context, f func(*libvirt.Libvirt) error) error {
	err := c.call(ctx, f)
	if errors.Is(err, ErrUnreachable) && ctx.Err() == nil {
		return c.call(ctx, f)
	}
	return err
}

// cut forgets a connection, so that the next call makes a new one.
func (c *Conn) cut(raw net.Conn) {
	_ = raw.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.raw == raw {
		c.lib, c.raw = nil, nil
	}
}

// code returns the number libvirt gives an error, and 0 for other errors.
func code(err error) libvirt.ErrorNumber {
	if said, ok := errors.AsType[libvirt.Error](err); ok {
		return libvirt.ErrorNumber(said.Code)
	}
	return 0
}

// isGone reports that the object of a call is no more, or no longer runs.
func isGone(err error) bool {
	switch code(err) {
	case libvirt.ErrNoDomain, libvirt.ErrNoNetwork, libvirt.ErrOperationInvalid:
		return true
	}
	return false
}
