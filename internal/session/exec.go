package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"meros/internal/ui"
)

// ExecOptions say how a command is run.
type ExecOptions struct {
	Env    []string            // NAME=VALUE, more than what the guest's login sets
	TTY    bool                // give it a terminal; its stdout and stderr are one then
	Getenv func(string) string // where TERM and the locale are looked up; for TTY

	Started func() // called once the command was started; not for TTY; may be nil
}

// signalGrace is how long a command may go on after each signal of ours.
const signalGrace = 2 * time.Second

// Exec runs a command of the guest with exactly these arguments, with the
// streams for its own, raw. It returns nil on status 0, an *ExitError on another
// one, and an error wrapping ErrLost when the connection ended first. When ctx
// ends, the command is sent SIGINT, SIGTERM and SIGKILL in turn, with a terminal it
// is left at once, which hangs it up; the error is the cause of ctx's end. Input
// that is left unread stays unread.
func Exec(ctx context.Context, c *Conn, s *ui.Streams, argv []string, o ExecOptions) error {
	line, err := commandLine(argv, o.Env)
	if err != nil {
		return err
	}
	if o.TTY {
		return runTTY(ctx, c, s, line, o.Getenv)
	}
	return runPipes(ctx, c, s, func(sess *ssh.Session) error {
		err := sess.Start(line)
		if err == nil && o.Started != nil {
			o.Started()
		}
		return err
	})
}

// Shell opens the user's login shell: on a terminal of its own where the streams
// are one, else fed from the input as it comes. It ends as Exec does. The
// caller's terminal is put back as it was, whatever happens.
func Shell(ctx context.Context, c *Conn, s *ui.Streams, getenv func(string) string) error {
	if _, ok := ui.Terminal(s.In); ok {
		return runTTY(ctx, c, s, "", getenv)
	}
	return runPipes(ctx, c, s, (*ssh.Session).Shell)
}

// runPipes runs what start starts with three separate streams.
func runPipes(ctx context.Context, c *Conn, s *ui.Streams, start func(*ssh.Session) error) error {
	var stdin io.WriteCloser
	out, errs := &output{w: s.Out}, &output{w: s.Err}
	c, sess, end, err := c.begin(ctx, func(sess *ssh.Session) (err error) {
		out.failed = func() { _ = sess.Close() }
		errs.failed = out.failed
		sess.Stdout, sess.Stderr = out, errs
		if stdin, err = sess.StdinPipe(); err != nil {
			return err
		}
		return start(sess)
	})
	if err != nil {
		return err
	}
	defer end()
	go feed(stdin, s.In)
	return outputFirst(c.wait(ctx, sess, ssh.SIGINT, ssh.SIGTERM, ssh.SIGKILL), out, errs)
}

// outputFirst returns how a command ended, or that its output could not be written,
// which ended it.
func outputFirst(err error, outputs ...*output) error {
	if _, ok := errors.AsType[*ExitError](err); ok {
		return err
	}
	var faults []error
	for _, o := range outputs {
		faults = append(faults, o.fault())
	}
	return errors.Join(append(faults, err)...)
}

// feed copies in to a command and closes the command's input after it.
func feed(stdin io.WriteCloser, in io.Reader) {
	defer ui.Guard()
	defer stdin.Close()
	if in != nil {
		_, _ = io.Copy(stdin, in)
	}
}

// output is a stream of the caller's. A stream that cannot be written any more
// ends the command, which else would wait for us for ever.
type output struct {
	w      io.Writer
	failed func()
	err    atomic.Pointer[error]
	mu     sync.Mutex
}

func (o *output) Write(p []byte) (int, error) {
	defer ui.Guard() // the SSH library calls it
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.w.Write(p)
	if err != nil {
		o.err.CompareAndSwap(nil, &err)
		o.failed()
	}
	return n, err
}

func (o *output) fault() error {
	if err := o.err.Load(); err != nil {
		return fmt.Errorf("write the command's output: %w", *err)
	}
	return nil
}

// wait returns how the started session ended, or what ended it. When ctx does,
// the command is sent the signals in turn, as long as it goes on.
func (c *Conn) wait(ctx context.Context, sess *ssh.Session, signals ...ssh.Signal) error {
	done := make(chan error, 1)
	go func() {
		defer ui.Guard()
		done <- sess.Wait()
	}()
	select {
	case err := <-done:
		return c.ended(err)
	case <-ctx.Done():
	}
	for _, signal := range signals {
		go func() { // may block on a dead link
			defer ui.Guard()
			_ = sess.Signal(signal)
		}()
		select {
		case <-done:
			return context.Cause(ctx)
		case <-time.After(signalGrace):
		}
	}
	return context.Cause(ctx)
}

// ended words what Session.Wait said.
func (c *Conn) ended(err error) error {
	if _, ok := errors.AsType[*ssh.ExitError](err); err == nil || ok {
		return exitError(err)
	}
	if _, ok := errors.AsType[*ssh.ExitMissingError](err); ok && !c.pulse.ended.Load() && c.pulse.dead.Load() == nil {
		return c.lost("the command ended without a status")
	}
	return c.fault(err)
}
