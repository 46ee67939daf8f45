package lifecycle

import (
	"context"
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

// Events calls each for every change of a guest of this root, until ctx ends or
// each fails.
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
	return d.Events(ctx, func(e virt.Event) error {
		if _, _, err := layout.SplitFullID(e.Domain); err != nil {
			return nil
		}
		if !ours[e.Domain] {
			now, err := g.ours(ctx, d)
			if err != nil {
				return err
			}
			// Added to, not replaced: one of ours may be gone whose end is yet to be told.
			maps.Copy(ours, now)
		}
		if !ours[e.Domain] {
			return nil
		}
		if e.What == "off" {
			delete(ours, e.Domain)
		}
		return each(Event{EventVersion, time.Now().UTC(), e.Domain, e.What, e.Why})
	})
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
