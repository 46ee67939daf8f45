package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"

	"meros/internal/family"
	"meros/internal/layout"
	"meros/internal/netfilter"
	"meros/internal/virt"
)

// forwarding is what the families of a host changed together.
type forwarding struct {
	Before   netfilter.Switches `json:"before"`
	Families []string           `json:"families"` // ROOT:FAMILY
	Open     []string           `json:"open"`     // links that forward for them
}

func (g Guests) forwardingKey(family string) string { return g.root() + ":" + family }

// withForwarding works on the record, which families of all roots share. An
// empty one is taken away.
func (g Guests) withForwarding(ctx context.Context, work func(*forwarding) error) (err error) {
	shared := layout.HostWide()
	unlock, err := shared.Lock(ctx, "forwarding", "forwarding", func(holder string) { g.Step("waiting for: %s", holder) })
	if err != nil {
		return err
	}
	defer unlock()
	var f forwarding
	content, err := os.ReadFile(shared.Forwarding())
	if err == nil {
		err = json.Unmarshal(content, &f)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := work(&f); err != nil {
		return err
	}
	if len(f.Families) == 0 {
		if err := os.Remove(shared.Forwarding()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if content, err = json.Marshal(f); err != nil {
		return err
	}
	return shared.WriteFile(shared.Forwarding(), content, 0o644)
}

// noteForwarding remembers how the host forwards, before libvirt or meros change
// it for a family. It returns the host's uplinks that forward only for families.
func (g Guests) noteForwarding(ctx context.Context, f *family.Family) (guarded []string, err error) {
	if !routes(f) {
		return nil, nil
	}
	err = g.withForwarding(ctx, func(s *forwarding) error {
		if len(s.Families) == 0 {
			var err error
			if s.Before, err = netfilter.ReadSwitches(); err != nil {
				return err
			}
		}
		if key := g.forwardingKey(f.Name); !slices.Contains(s.Families, key) {
			s.Families = append(s.Families, key)
		}
		for _, link := range virt.Uplinks() {
			if s.Before["net/ipv4/conf/"+link+"/forwarding"] == "0" {
				guarded = append(guarded, link)
			}
		}
		return nil
	})
	return guarded, err
}

// routes reports whether the host forwards anything for a family.
func routes(f *family.Family) bool {
	return f.Policy != nil && slices.ContainsFunc(f.Policy.Allows, func(a *family.Allow) bool {
		return a.Via == "" && (family.External(a.From) || family.External(a.To))
	})
}

// narrowForwarding undoes what libvirt opened for all links (it sets ip_forward
// for every network with <forward>), and opens the family's bridges and the
// uplinks alone.
func (g Guests) narrowForwarding(ctx context.Context, f *family.Family) error {
	if !routes(f) {
		return nil
	}
	return g.withForwarding(ctx, func(s *forwarding) error {
		if s.Before.All() {
			return nil
		}
		s.Open = append(s.Open, virt.Uplinks()...)
		for _, seg := range f.Policy.Segments {
			if seg.Routed {
				s.Open = append(s.Open, seg.Bridge)
			}
		}
		slices.Sort(s.Open)
		s.Open = slices.DeleteFunc(slices.Compact(s.Open), func(link string) bool { return !exists("/sys/class/net/" + link) })
		if err := s.Before.Restore(); err != nil {
			return err
		}
		return netfilter.Forward(s.Open)
	})
}

// stopForwarding takes a family off the record; with the last, the host forwards
// as it did before.
func (g Guests) stopForwarding(ctx context.Context, name string) error {
	return g.withForwarding(ctx, func(s *forwarding) error {
		key := g.forwardingKey(name)
		if !slices.Contains(s.Families, key) {
			return nil
		}
		s.Families = slices.DeleteFunc(s.Families, func(k string) bool { return k == key })
		if len(s.Families) > 0 {
			return nil
		}
		return s.Before.Restore()
	})
}
