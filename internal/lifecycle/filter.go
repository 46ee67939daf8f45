package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/layout"
	"meros/internal/netfilter"
	"meros/internal/virt"
)

// filterState says which rules of a family were loaded, so that they can be
// compared and, without the recipe, taken away.
type filterState struct {
	Text    string       `json:"text"`    // as they were loaded
	Listing string       `json:"listing"` // as the kernel had them
	Addrs   []netip.Addr `json:"addrs"`   // of the family's targets
	Policy  bool         `json:"policy"`  // whether a policy is among what they were made of
}

// ofPolicy is Policy, which an older meros has not noted.
func (s filterState) ofPolicy() bool { return s.Policy || len(s.Addrs) > 0 }

func (g Guests) readFilter(family string) (filterState, error) {
	var s filterState
	content, err := os.ReadFile(g.Paths.Filter(family))
	if err == nil {
		err = json.Unmarshal(content, &s)
	}
	return s, err
}

// loadFilter puts a family's rules in place and notes which they are.
func (g Guests) loadFilter(ctx context.Context, f *family.Family) error {
	var host netfilter.Host
	if f.Policy != nil {
		var err error
		if host, err = hostOf(f); err != nil {
			return err
		}
	}
	set, err := g.rules(f, host)
	if err != nil {
		return err
	}
	s := filterState{Text: set.Text, Policy: f.Policy != nil}
	for _, p := range set.Ports {
		s.Addrs = append(s.Addrs, p.Addrs...)
	}
	before, readErr := g.readFilter(f.Name)
	// Noted before too: what dies in between is taken away by the next shutdown.
	if err := g.noteFilter(f.Name, s); err != nil {
		return err
	}
	if s.Listing, err = netfilter.Load(ctx, g.Runner, set); err != nil {
		if readErr == nil && before.Listing != "" {
			return errors.Join(err, g.noteFilter(f.Name, before)) // those are still the ones to compare with
		}
		return err
	}
	return g.noteFilter(f.Name, s)
}

func (g Guests) noteFilter(name string, s filterState) error {
	content, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return g.Paths.WriteFile(g.Paths.Filter(name), content, 0o644)
}

// dropFilter takes a family's rules and connections away.
func (g Guests) dropFilter(ctx context.Context, name string) error {
	s, err := g.readFilter(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	g.Step("taking away the filter rules of %s", name)
	if err := netfilter.Remove(ctx, g.Runner, name); err != nil {
		return err
	}
	if _, err := netfilter.Cut(s.Addrs); err != nil {
		g.Warn("%s: %v", name, err)
	}
	return os.Remove(g.Paths.Filter(name))
}

// filtered returns the families of this root whose rules were loaded.
func (g Guests) filtered() []string {
	files, _ := filepath.Glob(g.Paths.Filter("*"))
	var names []string
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".filter.json")
		if layout.CheckFamily(name) == nil {
			names = append(names, name)
		}
	}
	return names
}

// The states of a family's filter rules.
const (
	FilterOK      = "ok"
	FilterGone    = "gone"
	FilterChanged = "changed"
	FilterUnknown = "unknown"
)

// filterNow compares the rules that the kernel has with those that were loaded;
// "" for a family of which none were.
func (g Guests) filterNow(ctx context.Context, name string) string {
	s, err := g.readFilter(name)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	got, listErr := netfilter.Listing(ctx, g.Runner, name)
	switch {
	case err != nil || listErr != nil:
		return FilterUnknown
	case got == "":
		return FilterGone
	case got != s.Listing || !g.guardStands(ctx, name):
		return FilterChanged
	}
	return FilterOK
}

// checkFilter fails unless the rules are there as they were loaded.
func (r *run) checkFilter(ctx context.Context) error {
	if now := r.filterNow(ctx, r.family.Name); now != "" && now != FilterOK {
		return hint.Add(fmt.Errorf("the filter rules of %s are %s: something on this host, or a host hook, has taken them away", r.family.Name, now),
			"see `nft list ruleset`, and what a firewall service or hook of the host does")
	}
	return nil
}

// setFilter puts the rules in place, whatever of the family already runs.
func (r *run) setFilter(ctx context.Context) error {
	if r.family.Policy == nil && len(r.family.Netfilter) == 0 {
		return nil
	}
	r.Step("loading the filter rules of %s", r.family.Name)
	rivals, err := netfilter.Rivals(ctx, r.Runner, r.family)
	if err != nil {
		return err
	}
	for _, words := range rivals {
		r.Warn("%s: it may keep guests from what %s allows; nothing that is forbidden passes by it", words, r.family.Policy.File)
	}
	r.filterSet = true
	if r.before, err = r.readFilter(r.family.Name); errors.Is(err, fs.ErrNotExist) {
		if err := r.noteFilter(r.family.Name, filterState{}); err != nil {
			return err
		}
	}
	if err := r.loadFilter(ctx, r.family); err != nil {
		return err
	}
	return r.cutOlder()
}

// cutOlder cuts the connections that other rules than the present ones let through.
func (r *run) cutOlder() error {
	now, err := r.readFilter(r.family.Name)
	if err != nil || r.before.Listing == "" || r.before.Text == now.Text {
		return err
	}
	n, err := netfilter.Cut(append(r.before.Addrs, now.Addrs...))
	if n > 0 {
		r.Step("the rules of %s have changed: %d connections cut", r.family.Name, n)
	}
	return err
}

// restoreFilter gives guests of before this call the rules back that something has
// taken away since. Where that fails they must not go on.
func (r *run) restoreFilter(ctx context.Context) error {
	now := r.filterNow(ctx, r.family.Name)
	if r.before.Listing == "" || now == FilterOK {
		return nil
	}
	domains, err := r.daemon.Domains(ctx)
	if err != nil {
		return err
	}
	left := slices.DeleteFunc(domains, func(d virt.Domain) bool { return !d.State.Active() || !r.owns(d.Owner) })
	if len(left) == 0 {
		return nil
	}
	s, err := r.readFilter(r.family.Name)
	if err == nil {
		s.Listing, err = netfilter.Load(ctx, r.Runner, netfilter.Ruleset{Family: r.family.Name, Text: s.Text})
	}
	if err == nil {
		r.Warn("the filter rules of %s were %s: they are loaded again for what runs", r.family.Name, now)
		return r.noteFilter(r.family.Name, s)
	}
	r.Warn("the filter rules of %s are %s and cannot be loaded again: the power of its guests is cut", r.family.Name, now)
	for _, d := range left {
		err = errors.Join(err, r.daemon.DestroyDomain(ctx, d))
	}
	return err
}

// leave takes away, of those of these families of which nothing runs any more, what
// the host forwards for them, the rules, and the bridges that a libvirt which died has
// left.
func (g Guests) leave(ctx context.Context, d virt.Daemon, families ...string) error {
	domains, err := d.Domains(ctx)
	if err != nil {
		return err
	}
	networks, err := d.Networks(ctx)
	if err != nil {
		return err
	}
	var faults []error
	for _, name := range families {
		ours := func(o virt.Owner) bool { return o.Family == name && o.Root == g.root() }
		if !slices.ContainsFunc(domains, func(d virt.Domain) bool { return d.State.Active() && ours(d.Owner) }) &&
			!slices.ContainsFunc(networks, func(n virt.Network) bool { return n.Active && ours(n.Owner) }) {
			faults = append(faults, g.stopForwarding(ctx, name), g.dropFilter(ctx, name), g.dropLeftBridges(ctx, d, name))
		}
	}
	return errors.Join(faults...)
}

// dropLeftBridges removes a family's bridges that libvirt knows nothing of, with the
// rules that it has made for them. The caller
// holds the family's lock: libvirt makes none of its bridges meanwhile.
func (g Guests) dropLeftBridges(ctx context.Context, d virt.Daemon, family string) error {
	networks, err := d.Networks(ctx)
	if err != nil {
		return err
	}
	left, err := virt.LeftBridges(virt.Owner{Family: family, Root: g.root()}, networks)
	faults := []error{err}
	for _, bridge := range left {
		g.Warn("%s: libvirt has died and left the bridge %s: it is removed", family, bridge)
		faults = append(faults, netfilter.ForgetLink(ctx, g.Runner, bridge), virt.RemoveBridge(ctx, g.Runner, bridge))
	}
	return errors.Join(faults...)
}

// withLeftBridges returns the families with a recipe of which there is a bridge that
// libvirt knows nothing of.
func (g Guests) withLeftBridges(networks []virt.Network) []string {
	folders, _ := os.ReadDir(g.Paths.Families())
	var names []string
	for _, f := range folders {
		left, err := virt.LeftBridges(virt.Owner{Family: f.Name(), Root: g.root()}, networks)
		if err == nil && len(left) > 0 && layout.CheckFamily(f.Name()) == nil {
			names = append(names, f.Name())
		}
	}
	return names
}
