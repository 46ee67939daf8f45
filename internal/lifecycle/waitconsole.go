package lifecycle

import (
	"context"
	"errors"
	"time"

	"meros/internal/family"
)

const (
	// silence is how long a console may print nothing: an emulated guest prints its
	// first line within ten seconds.
	silence = 30 * time.Second
	// settleTime is how long an init has to run: one that ends takes its kernel along
	// at once, which panics.
	settleTime = time.Second
)

// onlyHeard are the targets that this call has started and that have no session:
// of their start nothing is known but what a kernel prints.
func (r *run) onlyHeard() []*family.Target {
	var targets []*family.Target
	for _, d := range r.domains {
		if !r.unheard && !d.target.HasSession() && kernelMode(r.Paths, d.target) != family.KernelNone {
			targets = append(targets, d.target)
		}
	}
	return targets
}

// untilInit listens to a target's console until its init runs; watch ends the wait
// if its kernel panics. A console that tells nothing is no fault: the recipe may
// have sent its words elsewhere.
func (w *waiter) untilInit(ctx context.Context, c *waited) error {
	limit := w.Silence
	if limit == 0 {
		limit = silence
	}
	for {
		at, onIt, silent := c.since()
		switch {
		case at >= rungInit && onIt >= settleTime:
			c.line.End("%s after %s", at, c.elapsed())
			return nil
		case at < rungInit && silent >= limit:
			return w.unknown(c, "its console has been silent for "+silent.Round(time.Second).String())
		}
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), errTooLong) {
				return w.unknown(c, "the time is up")
			}
			return context.Cause(ctx)
		case <-time.After(pollEvery):
		}
	}
}

// unknown says that nobody can tell whether a guest has come up.
func (w *waiter) unknown(c *waited, why string) error {
	c.line.End("")
	w.Warn("%s: it got as far as %q, and %s: whether its init runs is not known", c.target.FullID(), c.now(), why)
	return nil
}

// upOnce reports whether a target was seen to reach its init and is not waited for
// any more: a guest without a session may do its work and power off.
func (w *waiter) upOnce(t *family.Target) bool {
	for _, c := range w.climbing {
		if c.target == t {
			return !t.HasSession() && c.now() >= rungInit
		}
	}
	return false
}
