package session

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"meros/internal/hint"
	"meros/internal/ui"
)

// serverStart bounds how long the guest's end of xpra may take to start: 10 s in
// an emulated guest that is idle, 20 s and more in a busy one.
const serverStart = 180 * time.Second

// In all three scripts, $dir is the folder of the guest's end. Its lock keeps two
// calls from starting two. What a script prints for us are lines of "name value".
const (
	scriptHead = `set -eu
umask 077
dir=$HOME/.cache/meros-run
mkdir -p "$dir"
lives() { [ -S "$dir/xpra.sock" ] && pid=$(cat "$dir/pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null; }
tell() { echo "version $(cat "$dir/version")"; echo "display $(cat "$dir/display")"; echo "socket $dir/xpra.sock"; }
`
	lookScript = scriptHead + `if lives; then tell; exit; fi
command -v xpra >/dev/null || { echo lacks xpra; exit; }
{ python3 -c 'import xpra; print(xpra.__version__)' || xpra --version; } 2>/dev/null >"$dir/version" || true
echo "version $(cat "$dir/version")"
python3 -c 'import PIL' 2>/dev/null || echo lacks python3-pil
`
	startScript = scriptHead + `exec 9>"$dir/lock"
flock 9
if ! lives; then
	n=100
	while [ -e "/tmp/.X11-unix/X$n" ] || [ -e "/tmp/.X$n-lock" ]; do
		pid=$(tr -d ' ' <"/tmp/.X$n-lock" 2>/dev/null) || pid=
		if [ -n "$pid" ] && ! kill -0 "$pid" 2>/dev/null && rm -f "/tmp/.X$n-lock" "/tmp/.X11-unix/X$n" 2>/dev/null; then break; fi
		n=$((n + 1))
	done
	rm -f "$dir/xpra.sock"
	echo ":$n" >"$dir/display"
	export XPRA_SYSTEM_CONF_DIRS=/nonexistent XPRA_USER_CONF_DIRS=/nonexistent XPRA_DEFAULT_CONF_DIRS=/nonexistent
	setsid xpra start ":$n" "--bind=$dir/xpra.sock" "--socket-dir=$dir" "--socket-dirs=$dir" "$@" </dev/null >"$dir/log" 2>&1 9>&- &
	pid=$!
	echo "$pid" >"$dir/pid"
	until lives; do
		kill -0 "$pid" 2>/dev/null || { tail -n 5 "$dir/log" >&2; exit 1; }
		sleep 0.2
	done
fi
tell
`
	stopScript = scriptHead + `exec 9>"$dir/lock"
flock 9
if lives; then kill "$pid"; fi
rm -f "$dir/pid" "$dir/xpra.sock"
`
)

// guestEnd is the guest's end of xpra: a display of the guest's, and the socket
// that shows it.
type guestEnd struct{ display, socket string }

// script runs a script of ours in the guest and returns the facts it printed,
// which the guest may have made up.
func (c *Conn) script(ctx context.Context, text string, args ...string) (map[string]string, error) {
	out, errs := &limited{left: 4 << 10}, &limited{left: 4 << 10}
	argv := append([]string{"sh", "-c", text, "meros"}, args...)
	err := Exec(ctx, c, &ui.Streams{Out: out, Err: errs}, argv, ExecOptions{})
	if _, ok := errors.AsType[*ExitError](err); ok {
		// Its status is not the program's that the person runs.
		return nil, fmt.Errorf("the guest says: %s", oneLine(errs.String()))
	}
	if err != nil {
		return nil, err
	}
	return facts(out.String()), nil
}

// startGuestEnd makes the guest's end of xpra run, if it does not, and returns
// where it is.
func (c *Conn) startGuestEnd(ctx context.Context, s *ui.Streams, host version, allow []string) (*guestEnd, error) {
	known, err := c.script(ctx, lookScript)
	if err != nil {
		return nil, fmt.Errorf("look for xpra in %s: %w", c.fullID, err)
	}
	if lacks := known["lacks"]; lacks != "" {
		err := fmt.Errorf("%s: %w: %s is not installed in it", c.fullID, ErrGuestLacks, oneLine(lacks))
		return nil, hint.Add(err, "add xpra and python3-pil to <packages> of its recipe and build it again")
	}
	guest, ok := parseVersion(known["version"])
	if !ok {
		return nil, fmt.Errorf("%s: %w: its xpra does not tell its version", c.fullID, ErrGuestLacks)
	}
	if err := compatible(host, guest); err != nil {
		return nil, fmt.Errorf("%s: %w", c.fullID, err)
	}
	if known["socket"] == "" {
		s.Step("starting xpra in %s", c.fullID)
		limit, cancel := context.WithTimeoutCause(ctx, serverStart, fmt.Errorf("not up after %s", serverStart))
		defer cancel()
		if known, err = c.script(limit, startScript, serveArgs(guest, allow)...); err != nil {
			return nil, hint.Add(fmt.Errorf("start xpra in %s: %w", c.fullID, err), "its words are in ~/.cache/meros-run/log in the guest")
		}
	}
	end, err := checkGuestEnd(known)
	if err != nil {
		return nil, err
	}
	return end, c.awaitSocket(ctx, end.socket)
}

const (
	// listenLimit bounds how long xpra may have its socket without serving it: some
	// 6 s in an emulated guest.
	listenLimit = time.Minute
	listenPoll  = 200 * time.Millisecond
)

// awaitSocket waits until a socket of the guest takes connections.
func (c *Conn) awaitSocket(ctx context.Context, socket string) error {
	for end := time.Now().Add(listenLimit); ; {
		conn, err := c.dialGuest("unix", socket)
		if err == nil {
			return conn.Close()
		}
		refused, ok := errors.AsType[*ssh.OpenChannelError](err)
		if ok && refused.Reason == ssh.Prohibited {
			return hint.Add(fmt.Errorf("forward a socket of %s: its sshd does not allow that", c.fullID), "the guest's sshd_config needs AllowStreamLocalForwarding yes")
		}
		if !ok || time.Now().After(end) {
			return fmt.Errorf("reach xpra in %s: %w", c.fullID, err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(listenPoll):
		}
	}
}

var displayForm = regexp.MustCompile(`^:[0-9]{1,5}$`)

// checkGuestEnd makes sure that what the guest says of its end can be that.
func checkGuestEnd(known map[string]string) (*guestEnd, error) {
	e := &guestEnd{display: known["display"], socket: known["socket"]}
	switch {
	case !displayForm.MatchString(e.display):
		return nil, fmt.Errorf("the guest names a display that is none: %s", shown(e.display))
	case !path.IsAbs(e.socket) || len(e.socket) > maxSocket || strings.ContainsRune(e.socket, 0):
		return nil, fmt.Errorf("the guest names a socket that is none: %s", shown(e.socket))
	}
	return e, nil
}

// stopGuestEnd ends the guest's end of xpra, and with it what still shows
// windows there.
func (c *Conn) stopGuestEnd(ctx context.Context) {
	_, _ = c.script(ctx, stopScript)
}
