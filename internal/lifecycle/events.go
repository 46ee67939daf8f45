package lifecycle

import (
	"context"
	"errors"
	"maps"
	"time"

	"meros/internal/layout"
	"meros/internal/virt"
)

// EventVersion is the version of Event's JSON form, which grows as InfoVersion
// does.
const EventVersion = 1

// Event is a change in the life of a guest of this root.
type Event struct {
	Version int       `json:"version"`
	Time    time.Time `json:"time"`
	FullID  string    `json:"fullId"`
	Event   string    `json:"event"`         // started, paused, resumed, shutting down, off, crashed
	Why     string    `json:"why,omitempty"` // such as: its disk could not be written
}

// eventsPatience is how long a libvirt that went away may be away: a new release of
// it takes a package manager minutes to put in place.
const eventsPatience = 10 * time.Minute

// Events calls each for every change of a guest of this root, until ctx ends or
// each fails. It outlives a restart of libvirt, and then tells what has changed.
func (g Guests) Events(ctx context.Context, each func(Event) error) error {
	d, err := g.Dial(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	// A domain that is gone cannot be asked whose it was: it is remembered.
	ours, err := g.ours(ctx, d)
	if err != nil {
		return err
	}
	l := &listener{Guests: g, daemon: d, ours: ours, each: each}
	for {
		err := d.Events(ctx, func(e virt.Event) error { return l.hear(ctx, e) })
		if l.failed != nil {
			return l.failed
		}
		if ctx.Err() != nil || !errors.Is(err, virt.ErrUnreachable) {
			return err
		}
		if err := l.catchUp(ctx); err != nil {
			return err
		}
	}
}

// listener tells of one root's guests.
type listener struct {
	Guests
	daemon virt.Daemon
	ours   map[string]bool // the names of those that there are
	each   func(Event) error
	failed error // why each cannot be told any more
}

func (l *listener) tell(name, what, why string) error {
	l.failed = l.each(Event{EventVersion, time.Now().UTC(), name, what, why})
	return l.failed
}

func (l *listener) hear(ctx context.Context, e virt.Event) error {
	if _, _, err := layout.SplitFullID(e.Domain); err != nil {
		return nil
	}
	if !l.ours[e.Domain] {
		now, err := l.Guests.ours(ctx, l.daemon)
		if err != nil {
			return err
		}
		// Added to, not replaced: one of ours may be gone whose end is yet to be told.
		maps.Copy(l.ours, now)
	}
	if !l.ours[e.Domain] {
		return nil
	}
	if e.What == "off" {
		delete(l.ours, e.Domain)
	}
	return l.tell(e.Domain, e.What, e.Why)
}

// catchUp waits for a libvirt that is back, and tells what came and went meanwhile.
func (l *listener) catchUp(ctx context.Context) error {
	now, err := l.Guests.ours(ctx, l.daemon)
	for deadline := time.Now().Add(eventsPatience); errors.Is(err, virt.ErrUnreachable) && time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pollEvery):
		}
		now, err = l.Guests.ours(ctx, l.daemon)
	}
	if err != nil {
		return err
	}
	const away = "while libvirt was away"
	before := l.ours
	l.ours = now
	for name := range before {
		if !now[name] {
			err = errors.Join(err, l.tell(name, "off", away))
		}
	}
	for name := range now {
		if !before[name] {
			err = errors.Join(err, l.tell(name, "started", away))
		}
	}
	return err
}

// ours are the names of this root's domains.
func (g Guests) ours(ctx context.Context, d virt.Daemon) (map[string]bool, error) {
	domains, err := d.Domains(ctx)
	names := map[string]bool{}
	for _, dom := range domains {
		if dom.Owner.Root == g.root() {
			names[dom.Name] = true
		}
	}
	return names, err
}
