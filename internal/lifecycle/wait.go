package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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
	// consoleTail is how many lines of a guest's console an error shows.
	consoleTail = 15
	// consoleBytes bounds what is read for them.
	consoleBytes = 64 << 10
)

// errTooLong ends a wait whose time is up.
var errTooLong = errors.New("the time is up")

// wait returns when a session can be opened on every target that has one, or with
// the reason why not.
func (r *run) wait(ctx context.Context, timeout time.Duration) error {
	targets := slices.DeleteFunc(slices.Clone(r.targets), func(t *family.Target) bool { return !t.HasSession() })
	if len(targets) == 0 {
		return nil
	}
	r.Step("waiting until sessions can be opened, at most %s", timeout)
	limited, stop := context.WithTimeoutCause(ctx, timeout, errTooLong)
	defer stop()
	waiting, cancel := context.WithCancelCause(limited)
	defer cancel(nil)

	w := &waiter{run: r, started: time.Now(), timeout: timeout}
	var watching, all sync.WaitGroup
	watching.Go(func() { r.watch(waiting, cancel) })
	faults := make([]error, len(targets))
	for i, t := range targets {
		all.Go(func() {
			if faults[i] = w.one(waiting, t); faults[i] != nil {
				cancel(faults[i])
			}
		})
	}
	all.Wait()
	cancel(nil)
	watching.Wait()
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

// watch ends the wait when a guest is gone.
func (r *run) watch(ctx context.Context, end context.CancelCauseFunc) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(4 * pollEvery):
		}
		domains, err := r.daemon.Domains(ctx)
		if err != nil {
			if ctx.Err() == nil {
				end(err)
			}
			return
		}
		for _, t := range r.targets {
			if err := r.alive(t, domains); err != nil {
				end(err)
				return
			}
		}
	}
}

// panicWords are how a kernel says that it has ended (panic() in kernel/panic.c).
const panicWords = "Kernel panic - not syncing"

// panicked returns the words with which a guest's kernel has ended, "" while it
// has not. A guest that lies here harms only its own start.
func panicked(console string) string {
	at := strings.LastIndex(console, panicWords)
	if at < 0 {
		return ""
	}
	line, _, _ := strings.Cut(console[at:], "\n")
	return ui.Clean(strings.TrimSuffix(strings.TrimSpace(line), " ]---"))
}

// alive returns why a target's guest is none any more.
func (r *run) alive(t *family.Target, domains []virt.Domain) error {
	id := t.FullID()
	if words := panicked(readTail(consoleLog(r.Paths, id))); words != "" {
		return r.withConsole(id, panicHint(fmt.Errorf("%s: %s", id, words)))
	}
	for _, d := range domains {
		if d.Name != id || !d.State.Active() {
			continue
		}
		if d.State == virt.StatePaused || d.State == virt.StateCrashed {
			return hint.Add(r.withConsole(id, fmt.Errorf("%s is %s", id, d.State)), "is the disk full? see `virsh domstate --reason %s`", id)
		}
		return nil
	}
	return r.withConsole(id, fmt.Errorf("%s powered off while it was waited for", id))
}

func panicHint(err error) error {
	switch text := err.Error(); {
	case strings.Contains(text, "Unable to mount root"):
		return hint.Add(err, "root= in the libvirt document has to name the image's partition: vda1 behind virtio, sda1 behind SATA and IDE; without an initrd a UUID= of the file system is not understood, PARTUUID= is")
	case strings.Contains(text, "No working init"):
		return hint.Add(err, "the image has no init for this kernel: is it built for another architecture?")
	}
	return err
}

type waiter struct {
	*run
	started time.Time
	timeout time.Duration
}

// one knocks at a target until it lets in.
func (w *waiter) one(ctx context.Context, t *family.Target) error {
	said := time.Now()
	var last error // what it said before the wait ended
	for {
		err := w.Ready(ctx, t)
		if err == nil {
			w.Step("%s is ready after %s", t.FullID(), time.Since(w.started).Round(100*time.Millisecond))
			return nil
		}
		if errors.Is(err, session.ErrHostKey) || errors.Is(err, session.ErrNotBuilt) {
			return err
		}
		if ctx.Err() == nil {
			last = err
		}
		if ctx.Err() == nil && time.Since(said) >= reportEvery {
			said = time.Now()
			w.Step("still waiting for %s, %s so far: %v", t.FullID(), time.Since(w.started).Round(time.Second), err)
		}
		select {
		case <-ctx.Done():
			return w.gaveUp(ctx, t, last)
		case <-time.After(knockEvery):
		}
	}
}

// gaveUp words why a wait ended: its time was up, or another guest's failure, or
// the person, ended it.
func (w *waiter) gaveUp(ctx context.Context, t *family.Target, last error) error {
	if !errors.Is(context.Cause(ctx), errTooLong) {
		return context.Cause(ctx)
	}
	err := fmt.Errorf("%s: no session within %s", t.FullID(), w.timeout)
	if last != nil {
		err = fmt.Errorf("%w: %v", err, last)
	}
	return hint.Add(w.withConsole(t.FullID(), err), "give it more time with --timeout, or keep it running with --no-wait and look at its console")
}

// withConsole adds the last lines that a guest wrote to its console.
func (r *run) withConsole(fullID string, err error) error {
	file := consoleLog(r.Paths, fullID)
	lines := lastLines(readTail(file), consoleTail)
	if len(lines) == 0 {
		return err
	}
	text := "\nthe last lines of its console, all of which is in " + file + ":"
	for _, line := range lines {
		text += "\n  " + ui.Clean(strings.ReplaceAll(line, "\r", ""))
	}
	return fmt.Errorf("%w%s", err, text)
}

func readTail(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return "" // no console is no fault of the guest's
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > consoleBytes {
		_, _ = f.Seek(-consoleBytes, io.SeekEnd)
	}
	content, _ := io.ReadAll(io.LimitReader(f, consoleBytes))
	return string(content)
}
