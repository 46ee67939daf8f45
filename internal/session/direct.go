package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"meros/internal/hint"
	"meros/internal/proc"
	"meros/internal/ui"
)

// The two other ways of windows: the guest's program speaks with the host's own
// screen through a socket of the guest that is forwarded to one of the host.

// placeScript finds a place for such a socket in the guest. Its input becomes the
// file that holds an X server's key.
const placeScript = scriptHead + `case $1 in
waypipe)
	command -v waypipe >/dev/null || { echo lacks waypipe; exit; }
	echo "socket $dir/waypipe-$$.sock" ;;
x11)
	n=50
	while [ -e "/tmp/.X11-unix/X$n" ] || [ -e "$dir/xauth-$n" ]; do n=$((n + 1)); done
	cat >"$dir/xauth-$n"
	echo "display :$n"; echo "file $dir/xauth-$n"; echo "socket /tmp/.X11-unix/X$n" ;;
esac
`

// place returns where the guest's socket may be.
func (c *Conn) place(ctx context.Context, way Display, key []byte) (map[string]string, error) {
	out := &limited{left: 4 << 10}
	err := Exec(ctx, c, &ui.Streams{In: bytes.NewReader(key), Out: out, Err: &limited{}},
		[]string{"sh", "-c", placeScript, "meros", string(way)}, ExecOptions{})
	if err != nil {
		return nil, fmt.Errorf("prepare %s in %s: %w", way, c.fullID, err)
	}
	known := facts(out.String())
	if lacks := known["lacks"]; lacks != "" {
		err := fmt.Errorf("%s: %w: %s is not installed in it", c.fullID, ErrGuestLacks, oneLine(lacks))
		return nil, hint.Add(err, "add %s to <packages> of its recipe and build it again", way)
	}
	if s := known["socket"]; !filepath.IsAbs(s) || len(s) > maxSocket {
		return nil, fmt.Errorf("the guest names a socket that is none: %s", shown(s))
	}
	return known, nil
}

// clear removes from the guest what was placed in it: sshd leaves the sockets that it
// forwards.
func (w *window) clear(ctx context.Context, placed ...string) {
	if w.pulse.ended.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	_, _ = w.script(ctx, `rm -f -- "$@"`, placed...)
}

// lend forwards a socket of the guest to one of the host until stop is called.
func (w *window) lend(ctx context.Context, guestSocket, hostSocket string) (stop func(), err error) {
	l, err := w.client.ListenUnix(guestSocket)
	if err != nil {
		return nil, hint.Add(fmt.Errorf("forward a socket of %s: %w", w.fullID, w.fault(err)), "the guest's sshd has to have AllowStreamLocalForwarding yes")
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		relay(ctx, l, anybody, func() (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "unix", hostSocket) },
			func(err error) { w.streams.Warn("%v", err) })
	}()
	return func() { cancel(); <-ended }, nil
}

func (w *window) waypipe(ctx context.Context) error {
	known, err := w.place(ctx, DisplayWaypipe, nil)
	if err != nil {
		return err
	}
	defer w.clear(ctx, known["socket"])
	w.streams.Warn("%s speaks with this Wayland compositor itself: what it shows has no border, and its titles are its own", w.fullID)
	local := w.dir.file("waypipe-" + strconv.Itoa(os.Getpid()))
	if len(local) > maxSocket {
		return fmt.Errorf("the path of the socket %s has more than %d bytes", local, maxSocket)
	}
	defer os.Remove(local)
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		argv := w.asPerson([]string{"waypipe", "--socket", local, "client"})
		if err := w.runner.Run(ctx, proc.Cmd{Argv: argv, Stdout: w.streams.Tool(), Stderr: w.streams.Tool()}); ctx.Err() == nil {
			cancel(fmt.Errorf("%w: waypipe ended on the host: %w", ErrNoDisplay, err))
		}
	}()
	defer func() { cancel(nil); <-ended }()
	stop, err := w.lend(ctx, known["socket"], local)
	if err != nil {
		return err
	}
	defer stop()
	argv := append([]string{"waypipe", "--socket", known["socket"], "server", "--"}, w.options.Argv...)
	return w.exec(ctx, argv, []string{"GDK_BACKEND=wayland", "QT_QPA_PLATFORM=wayland", "MOZ_ENABLE_WAYLAND=1"})
}

// x11 lets the program speak with the host's X server, with a key by which that
// server keeps it from other programs' windows and keys (X SECURITY extension).
func (w *window) x11(ctx context.Context) error {
	socket, err := xSocket(w.screen.display)
	if err != nil {
		return err
	}
	key, err := w.untrustedKey(ctx)
	if err != nil {
		return err
	}
	known, err := w.place(ctx, DisplayX11, xauthority(key))
	if err != nil {
		return err
	}
	defer w.clear(ctx, known["socket"], known["file"])
	if !displayForm.MatchString(known["display"]) {
		return fmt.Errorf("the guest names a display that is none: %s", shown(known["display"]))
	}
	w.streams.Warn("%s speaks with this X server itself: what it shows has no border, and its titles are its own", w.fullID)
	stop, err := w.lend(ctx, known["socket"], socket)
	if err != nil {
		return err
	}
	defer stop()
	return w.program(ctx, []string{"DISPLAY=" + known["display"], "XAUTHORITY=" + known["file"]})
}

var localDisplay = regexp.MustCompile(`^(?:unix)?:([0-9]{1,5})(?:\.[0-9]+)?$`)

// xSocket returns the socket of a local X server.
func xSocket(display string) (string, error) {
	m := localDisplay.FindStringSubmatch(display)
	if m == nil {
		return "", hint.Add(fmt.Errorf("%w: DISPLAY is %q, not a screen of this host", ErrNoDisplay, display), "try --display xpra")
	}
	return "/tmp/.X11-unix/X" + m[1], nil
}

// keyTimeout is for how many seconds without a client the host's X server keeps such a
// key, which nothing takes back before: ssh_config(5), ForwardX11Timeout.
const keyTimeout = "1200"

var cookieForm = regexp.MustCompile(`MIT-MAGIC-COOKIE-1\s+([0-9a-f]{32})`)

// untrustedKey has the host's X server make a key for a client it does not trust.
func (w *window) untrustedKey(ctx context.Context) ([]byte, error) {
	file, err := os.CreateTemp(w.dir.dir, "xauth-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	if err := errors.Join(file.Close(), w.paths.Owner.Give(file.Name())); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, args := range [][]string{{"generate", w.screen.display, ".", "untrusted", "timeout", keyTimeout}, {"list"}} {
		argv := append([]string{"xauth", "-q", "-f", file.Name()}, args...)
		if err := w.runner.Run(ctx, proc.Cmd{Argv: w.asPerson(argv), Stdout: &out}); err != nil {
			return nil, hint.Add(fmt.Errorf("%w: have the X server make a key for an untrusted client: %w", ErrNoDisplay, err), "try --display xpra")
		}
	}
	m := cookieForm.FindStringSubmatch(out.String())
	if m == nil {
		return nil, hint.Add(fmt.Errorf("%w: the X server makes no keys for untrusted clients", ErrNoDisplay), "try --display xpra")
	}
	return hex.DecodeString(m[1])
}

// xauthority is a file with a key for every display: Xau(3), with FamilyWild.
func xauthority(key []byte) []byte {
	const name = "MIT-MAGIC-COOKIE-1"
	file := binary.BigEndian.AppendUint16(nil, 0xffff)
	for _, part := range []string{"", "", name, string(key)} {
		file = binary.BigEndian.AppendUint16(file, uint16(len(part)))
		file = append(file, part...)
	}
	return file
}
