package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"meros/internal/family"
	"meros/internal/layout"
	"meros/internal/netfilter"
	"meros/internal/virt"
)

// forwarding is what the families of a host change together.
type forwarding struct {
	Before  netfilter.Switches `json:"before"`  // as the host would forward without families
	Left    netfilter.Switches `json:"left"`    // as meros has left it, or has libvirt leave it
	Shares  map[string]share   `json:"shares"`  // by ROOT:FAMILY
	Uplinks []string           `json:"uplinks"` // that families went out by
	Guard   string             `json:"guard"`   // the listing of the guard that was loaded; "" if none
}

// share is what a family has the host forward.
type share struct {
	Bridges []string `json:"bridges"` // for these and the uplinks, as its policy says
	// All are IP versions that go on as libvirt sets them, for all links: which of them
	// a family without a policy lives by, nobody has said.
	All []string `json:"all"`
}

func (g Guests) forwardingKey(family string) string { return g.root() + ":" + family }

// readForwarding reads the record, which families of all roots share.
func readForwarding() (*forwarding, error) {
	s := &forwarding{Shares: map[string]share{}}
	content, err := os.ReadFile(layout.HostWide().Forwarding())
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(content, s)
	}
	if err != nil {
		return nil, fmt.Errorf("read how the host forwarded before families: %w", err)
	}
	return s, nil
}

// save writes the record. An empty one is taken away.
func (s *forwarding) save() error {
	shared := layout.HostWide()
	if len(s.Shares) == 0 {
		if err := os.Remove(shared.Forwarding()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	content, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return shared.WriteFile(shared.Forwarding(), content, 0o644)
}

// withForwarding works on the record, one process at a time.
func (g Guests) withForwarding(ctx context.Context, work func(*forwarding) error) error {
	unlock, err := layout.HostWide().Lock(ctx, "forwarding", "forwarding", func(holder string) { g.Step("waiting for: %s", holder) })
	if err != nil {
		return err
	}
	defer unlock()
	s, err := readForwarding()
	if err != nil {
		return err
	}
	if err := work(s); err != nil {
		return err
	}
	return s.save()
}

// forwards reports whether the host forwards for a family of this root. It takes no
// lock: the caller has the family's.
func (g Guests) forwards(family string) (bool, error) {
	s, err := readForwarding()
	if err != nil {
		return false, err
	}
	_, there := s.Shares[g.forwardingKey(family)]
	return there, nil
}

// forwarded returns the families of this root that the host forwards for.
func (g Guests) forwarded() []string {
	s, err := readForwarding()
	if err != nil {
		return nil // who takes them off the record will say it
	}
	var names []string
	for key := range s.Shares {
		name, ours := strings.CutPrefix(key, g.forwardingKey(""))
		if ours && layout.CheckFamily(name) == nil {
			names = append(names, name)
		}
	}
	return names
}

// noteForwarding remembers how the host forwards, before libvirt and meros change it
// for a family of which these networks are to start.
func (g Guests) noteForwarding(ctx context.Context, f *family.Family, start []virt.NetworkDoc) error {
	var opens []string
	for _, n := range start {
		opens = append(opens, n.Opens...)
	}
	if there, err := g.forwards(f.Name); err != nil || !there && len(opens) == 0 {
		return err
	}
	part, err := g.shareOf(f, opens)
	if err != nil {
		return err
	}
	err = g.withForwarding(ctx, func(s *forwarding) error {
		if err := s.look(); err != nil {
			return err
		}
		key := g.forwardingKey(f.Name)
		if f.Policy == nil {
			part.All = append(part.All, s.Shares[key].All...) // one network more
		}
		s.Shares[key] = part
		for _, version := range opens {
			s.Left.OpenAll(version) // what libvirt does in our name
		}
		// Noted before too: what dies in between is taken away by the next shutdown.
		if err := s.save(); err != nil {
			return err
		}
		s.Guard, err = s.guard().Load(ctx, g.Runner)
		return err
	})
	if f.Policy == nil && errors.Is(err, fs.ErrPermission) {
		g.Warn("%s: libvirt has this host forward for its networks, and only root can note how it was: it stays so after shutdown", f.Name)
		return nil
	}
	return err
}

// shareOf returns a family's share, of which libvirt opens IP versions.
func (g Guests) shareOf(f *family.Family, opens []string) (share, error) {
	if f.Policy == nil {
		return share{All: opens}, nil
	}
	var s share
	if !routes(f) {
		return s, nil
	}
	docs, err := g.networkDocs(f)
	for _, n := range docs {
		if slices.Contains(n.Opens, netfilter.IPv4) {
			s.Bridges = append(s.Bridges, n.Bridge)
		}
	}
	return s, err
}

// routes reports whether a policy has anything forwarded.
func routes(f *family.Family) bool {
	return slices.ContainsFunc(f.Policy.Allows, func(a *family.Allow) bool {
		return a.Via == "" && (family.External(a.From) || family.External(a.To))
	})
}

// look brings the record up to what others have set since, and to the uplinks of now.
func (s *forwarding) look() error {
	now, err := netfilter.ReadSwitches()
	if err != nil {
		return err
	}
	s.Before, s.Left = now.Others(s.Before, s.Left), now
	s.Uplinks = append(s.Uplinks, virt.Uplinks()...)
	slices.Sort(s.Uplinks)
	s.Uplinks = slices.DeleteFunc(slices.Compact(s.Uplinks), func(link string) bool { return !exists("/sys/class/net/" + link) })
	return nil
}

// bridges are those that the host forwards for.
func (s *forwarding) bridges() []string {
	var all []string
	for _, part := range s.Shares {
		all = append(all, part.Bridges...)
	}
	slices.Sort(all)
	return all
}

// all reports whether an IP version is forwarded for all links.
func (s *forwarding) all(version string) bool {
	for _, part := range s.Shares {
		if slices.Contains(part.All, version) {
			return true
		}
	}
	return false
}

// guard is over the uplinks that forward for policies only.
func (s *forwarding) guard() netfilter.Guard {
	g := netfilter.Guard{Bridges: s.bridges()}
	if len(g.Bridges) == 0 || s.all(netfilter.IPv4) {
		return netfilter.Guard{}
	}
	for _, link := range s.Uplinks {
		if !s.Before.Forwards(link) && !slices.Contains(g.Bridges, link) {
			g.Uplinks = append(g.Uplinks, link)
		}
	}
	return g
}

// settle has the host forward what the families of the record need, and else what it
// would without them: libvirt has opened all links for every network with <forward>.
func (g Guests) settle(ctx context.Context, s *forwarding) error {
	if err := s.look(); err != nil {
		return err
	}
	want := maps.Clone(s.Before)
	if s.all(netfilter.IPv4) {
		want.OpenLinks()
	}
	if s.all(netfilter.IPv6) {
		want.OpenAll(netfilter.IPv6)
	}
	if bridges := s.bridges(); len(bridges) > 0 {
		want.Open(slices.Concat(s.Uplinks, bridges)...)
	}
	// What guards comes before what it guards, and goes after it.
	guard := s.guard()
	load := func() (err error) {
		s.Guard, err = guard.Load(ctx, g.Runner)
		return err
	}
	steps := []func() error{load, want.Set}
	if len(guard.Uplinks) == 0 {
		slices.Reverse(steps)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	var err error
	s.Left, err = netfilter.ReadSwitches()
	return err
}

// narrowForwarding undoes what libvirt opened beyond what the family needs.
func (g Guests) narrowForwarding(ctx context.Context, f *family.Family) error {
	if there, err := g.forwards(f.Name); err != nil || !there {
		return err
	}
	return g.withForwarding(ctx, func(s *forwarding) error { return g.settle(ctx, s) })
}

// stopForwarding takes a family off the record; with the last, the host forwards as
// it would without any.
func (g Guests) stopForwarding(ctx context.Context, name string) error {
	if there, err := g.forwards(name); err != nil || !there {
		return err
	}
	return g.withForwarding(ctx, func(s *forwarding) error {
		delete(s.Shares, g.forwardingKey(name))
		return g.settle(ctx, s)
	})
}

// guardStands reports whether the guard that a family shares is there as it was loaded.
func (g Guests) guardStands(ctx context.Context, name string) bool {
	if there, err := g.forwards(name); err != nil || !there {
		return err == nil
	}
	stands := false
	err := g.withForwarding(ctx, func(s *forwarding) error {
		now, err := netfilter.GuardListing(ctx, g.Runner)
		stands = now == s.Guard
		return err
	})
	return err == nil && stands
}
