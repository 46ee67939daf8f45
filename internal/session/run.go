package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/layout"
	"meros/internal/proc"
	"meros/internal/ui"
)

// RunOptions say how a program and its windows are run.
type RunOptions struct {
	Argv    []string
	Env     []string // NAME=VALUE
	Border  string   // trust colour; "": the recipe's, else one made of the full id
	Allow   []string // of family.RunFeatures, more than the recipe's
	Getenv  func(string) string
	Started func() // called once the program runs
}

// Run runs a program of the guest and shows its windows on the host's screen. It
// ends as Exec does; when ctx does, the program is ended too. Programs of one
// target share a display in the guest, and what shows it on the host, with one border
// and what it allows: that goes over to another when its own program ends, and all is
// gone with the last. Options other than those that hold are ErrOtherSession.
func Run(ctx context.Context, c *Conn, paths layout.Paths, s *ui.Streams, r proc.Runner, screen *Screen, t *family.Target, o RunOptions) error {
	if o.Border == "" {
		o.Border = t.TrustColour()
	}
	o.Allow = append(o.Allow, t.RunAllow...)
	w := &window{Conn: c, paths: paths, streams: s, runner: r, screen: screen, options: o}
	var faults []error
	for _, way := range screen.ways {
		err := w.run(ctx, way)
		if !errors.Is(err, ErrGuestLacks) {
			return err
		}
		faults = append(faults, err)
	}
	return faults[0]
}

// window is one run of a program with windows.
type window struct {
	*Conn
	paths   layout.Paths
	streams *ui.Streams
	runner  proc.Runner
	screen  *Screen
	options RunOptions
	dir     *runDir
}

func (w *window) run(ctx context.Context, way Display) error {
	if way == DisplayNone {
		return w.program(ctx, nil)
	}
	var err error
	if w.dir, err = openRunDir(w.paths, w.fullID, w.options.Getenv); err != nil {
		return err
	}
	defer w.dir.tidy()
	if way == DisplayXpra {
		return w.xpra(ctx)
	}
	if w.alone != nil { // a master forwards no socket of the guest
		own, err := w.alone(ctx)
		if err != nil {
			return err
		}
		defer own.Close()
		on := *w
		on.Conn, w = own, &on
	}
	if way == DisplayWaypipe {
		return w.waypipe(ctx)
	}
	return w.x11(ctx)
}

// program runs the program itself.
func (w *window) program(ctx context.Context, env []string) error {
	return w.exec(ctx, w.options.Argv, env)
}

func (w *window) exec(ctx context.Context, argv, env []string) error {
	return Exec(ctx, w.Conn, w.streams, argv, ExecOptions{
		Env: append(env, w.options.Env...), Started: w.options.Started,
	})
}

// stopLimit bounds what is done in the guest after the program has ended.
const stopLimit = 10 * time.Second

func (w *window) xpra(ctx context.Context) error {
	users, err := w.join(ctx)
	if err != nil {
		return err
	}
	defer users.release()
	defer w.leave(ctx, users)
	if err := w.agree(); err != nil {
		return err
	}
	end, err := w.startGuestEnd(ctx, w.streams, w.screen.xpra, w.options.Allow)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	shown := make(chan error, 1)
	go func() {
		err := w.show(ctx, end)
		shown <- err
		if ctx.Err() == nil {
			time.AfterFunc(lostGrace, func() { cancel(err) })
		}
	}()
	err = w.program(ctx, []string{"DISPLAY=" + end.display, "GDK_BACKEND=x11", "QT_QPA_PLATFORM=xcb", "NO_AT_BRIDGE=1"})
	cancel(nil)
	<-shown
	return err
}

// lostGrace is how long the program may take to end by itself after what shows
// its windows has: both do when the guest dies, and then that is what to tell.
const lostGrace = 2 * time.Second

// leave ends the guest's end of xpra if this was the last to use it.
func (w *window) leave(ctx context.Context, users *hold) {
	if !users.last() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	if !w.pulse.ended.Load() {
		w.stopGuestEnd(ctx)
	}
	w.dir.tidy("users", "lead", "xpra", "options")
}

// show shows the guest's display on the host until ctx ends: by itself, or once
// the one who does has left.
func (w *window) show(ctx context.Context, end *guestEnd) error {
	lead, err := w.dir.lock(ctx, "lead", unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lead.release()
	l, err := w.dir.listen("xpra")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	relayed := make(chan struct{})
	go func() {
		defer close(relayed)
		relay(ctx, l, ownUser(w.dir.user()), func() (net.Conn, error) { return w.dialGuest("unix", end.socket) }, func(err error) {
			w.streams.Warn("%v", fromGuest(err))
		})
	}()
	argv := attachArgs(w.screen.xpra, w.dir.file("xpra"), w.fullID, w.options.Border, w.options.Allow)
	said := &lastLine{to: w.streams.Tool()}
	err = w.runner.Run(ctx, proc.Cmd{Argv: w.asPerson(argv), Stdout: said, Stderr: &lastLine{to: w.streams.Tool()}})
	stopped := ctx.Err() != nil
	cancel()
	<-relayed
	if stopped {
		return nil
	}
	return displayEnded(err, said.line)
}

// displayEnded words that what shows the windows ended before the program.
func displayEnded(err error, said string) error {
	exit, ran := errors.AsType[*proc.ExitError](err)
	switch {
	case err == nil:
		return fmt.Errorf("%w: xpra was ended on the host, and the program with it", ErrNoDisplay)
	case ran:
		err = fmt.Errorf("xpra ended with status %d: %s", exit.Code, oneLine(said))
	}
	return hint.Add(fmt.Errorf("%w: show the windows: %w", ErrNoDisplay, err), "--verbose shows what xpra says")
}

// lastLine passes on what is written to it, which may hold a guest's words, clean,
// and keeps the last line.
type lastLine struct {
	to   io.Writer
	line string
}

// Write implements io.Writer.
func (l *lastLine) Write(p []byte) (int, error) {
	lines := strings.FieldsFunc(string(p), func(r rune) bool { return r == '\n' })
	if len(lines) > 0 {
		l.line = lines[len(lines)-1]
	}
	_, err := io.WriteString(l.to, ui.Clean(string(p)))
	return len(p), err
}

// asPerson makes a command line one that runs as the person behind sudo: what
// takes a guest's bytes apart has no business as root, and the screen is theirs.
func (w *window) asPerson(argv []string) []string {
	o := w.paths.Owner
	if os.Geteuid() != 0 || o.UID == 0 {
		return argv
	}
	return append([]string{"setpriv", "--reuid=" + strconv.Itoa(o.UID), "--regid=" + strconv.Itoa(o.GID), "--init-groups", "--no-new-privs", "--"}, argv...)
}
