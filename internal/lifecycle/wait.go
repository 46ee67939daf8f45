package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/session"
	"meros/internal/ui"
	"meros/internal/virt"
)

const (
	// pollEvery is how often a guest's state is looked at.
	pollEvery = 250 * time.Millisecond
	// knockEvery is the pause between two attempts to open a session.
	knockEvery = 500 * time.Millisecond
	// reportEvery is how often a wait says that it goes on.
	reportEvery = 15 * time.Second
)

// errTooLong ends a wait whose time is up.
var errTooLong = errors.New("the time is up")

// wait returns when a session can be opened on every target that has one, and the
// others' kernels have reached their init, or with the reason why not.
func (r *run) wait(ctx context.Context, timeout time.Duration) error {
	targets := slices.DeleteFunc(slices.Clone(r.targets), func(t *family.Target) bool { return !t.HasSession() })
	until := "sessions can be opened"
	if len(targets) == 0 {
		until = "the guests' kernels have reached init"
	}
	if targets = append(targets, r.onlyHeard()...); len(targets) == 0 {
		return nil
	}
	r.Step("waiting until %s, at most %s", until, timeout)
	limited, stop := context.WithTimeoutCause(ctx, timeout, errTooLong)
	defer stop()
	waiting, cancel := context.WithCancelCause(limited)
	defer cancel(nil)

	w := &waiter{run: r, timeout: timeout}
	board := r.Board()
	for _, t := range targets {
		w.climb(board, t)
	}
	var watching, all sync.WaitGroup
	watching.Go(func() { w.watch(waiting, cancel) })
	faults := make([]error, len(targets))
	for i, c := range w.climbing {
		all.Go(func() {
			if faults[i] = w.await(waiting, c); faults[i] != nil {
				cancel(faults[i])
			}
		})
	}
	all.Wait()
	cancel(nil)
	watching.Wait()
	board.Close()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// Where one failure ended all waits, it is what each of them returns.
	cause := context.Cause(waiting)
	if errors.Is(cause, errTooLong) || errors.Is(cause, context.Canceled) {
		return errors.Join(faults...)
	}
	return cause
}

// waiter waits for the guests of one run.
type waiter struct {
	*run
	timeout  time.Duration
	climbing []*waited
}

// waited is a target that is waited for.
type waited struct {
	*climber
	target  *family.Target
	console follower
	boot    bootlog
}

func (w *waiter) climb(board *ui.Board, t *family.Target) {
	c := newClimber(board.Line(t.FullID()), time.Now())
	w.climbing = append(w.climbing, &waited{climber: c, target: t, console: follower{file: consoleLog(w.Paths, t.FullID())}})
}

// watch reads the guests' consoles, and ends the wait when one of them will never
// be there.
func (w *waiter) watch(ctx context.Context, end context.CancelCauseFunc) {
	for round := 0; ; round++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pollEvery):
		}
		for _, c := range w.climbing {
			if err := w.readConsole(c); err != nil {
				end(err)
				return
			}
		}
		if round%4 != 3 {
			continue
		}
		if err := w.alive(ctx); err != nil {
			end(err)
			return
		}
	}
}

// readConsole takes what a guest has printed, and returns why it will never be
// ready.
func (w *waiter) readConsole(c *waited) error {
	before := c.console.at
	c.console.read(&c.boot)
	if c.console.at != before {
		c.hear()
	}
	c.reach(c.boot.at)
	if c.boot.fault == "" {
		return nil
	}
	id := c.target.FullID()
	return panicHint(w.withConsole(id, fmt.Errorf("%s: after %q: %s", id, c.now(), c.boot.fault)))
}

// alive returns why a target's guest is none any more.
func (w *waiter) alive(ctx context.Context) error {
	domains, err := w.daemon.Domains(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	for _, t := range w.targets {
		if w.upOnce(t) {
			continue
		}
		if err := w.aliveOne(t, domains); err != nil {
			return err
		}
	}
	return nil
}

func (w *waiter) aliveOne(t *family.Target, domains []virt.Domain) error {
	id := t.FullID()
	for _, d := range domains {
		if d.Name != id || !d.State.Active() {
			continue
		}
		if d.State == virt.StatePaused || d.State == virt.StateCrashed {
			return stopped(w.withConsole(id, fmt.Errorf("%s is %s%s", id, d.State, because(d.Why))), id)
		}
		return nil
	}
	return w.withConsole(id, fmt.Errorf("%s powered off while it was waited for", id))
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

func stopped(err error, id string) error {
	return hint.Add(err, "`virsh domstate --reason %s` says more; init lets a paused guest run on", id)
}

func panicHint(err error) error {
	switch text := err.Error(); {
	case strings.Contains(text, "Unable to mount root"), strings.Contains(text, "no root file system"):
		return hint.Add(err, "root= in the libvirt document has to name the image's partition: vda1 behind virtio, sda1 behind SATA and IDE; without an initrd a UUID= of the file system is not understood, PARTUUID= is; Alpine's initrd understands UUID=, no PARTUUID=, and wants rootfstype=ext4 too")
	case strings.Contains(text, "No working init"):
		return hint.Add(err, "the image has no init for this kernel: is it built for another architecture?")
	}
	return err
}

// await waits for one target.
func (w *waiter) await(ctx context.Context, c *waited) error {
	wait := w.one
	if !c.target.HasSession() {
		wait = w.untilInit
	}
	err := wait(ctx, c)
	if err != nil {
		c.line.End("")
	}
	return err
}

// one knocks at a target until it lets in.
func (w *waiter) one(ctx context.Context, c *waited) error {
	var last error // what it said before the wait ended
	for {
		err := w.Ready(ctx, c.target, c.passed)
		if err == nil {
			c.reach(rungLogin)
			c.line.End("ready after %s", c.elapsed())
			return nil
		}
		if errors.Is(err, session.ErrHostKey) || errors.Is(err, session.ErrNotBuilt) {
			return fmt.Errorf("after %q: %w", c.now(), err)
		}
		if ctx.Err() == nil {
			last = err
			c.knocked(err)
			c.wait(err)
		}
		select {
		case <-ctx.Done():
			return w.gaveUp(ctx, c, last)
		case <-time.After(knockEvery):
		}
	}
}

// gaveUp words why a wait ended: its time was up, or another guest's failure, or
// the person, ended it.
func (w *waiter) gaveUp(ctx context.Context, c *waited, last error) error {
	if !errors.Is(context.Cause(ctx), errTooLong) {
		return context.Cause(ctx)
	}
	id := c.target.FullID()
	err := fmt.Errorf("%s: no session within %s: it got as far as %q, not to %q", id, w.timeout, c.now(), c.now()+1)
	if last != nil {
		err = fmt.Errorf("%w: %v", err, last)
	}
	return hint.Add(w.withConsole(id, err), "give it more time with --timeout, or keep it running with --no-wait and look at its console")
}
