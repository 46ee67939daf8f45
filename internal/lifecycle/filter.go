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
}

func (g Guests) readFilter(family string) (filterState, error) {
	var s filterState
	content, err := os.ReadFile(g.Paths.Filter(family))
	if err == nil {
		err = json.Unmarshal(content, &s)
	}
	return s, err
}

// loadFilter puts a family's rules in place and notes which they are.
func (g Guests) loadFilter(ctx context.Context, f *family.Family, uplinks []string) error {
	host := netfilter.Host{Guarded: uplinks}
	if f.Policy != nil {
		own, err := hostOf(f)
		if err != nil {
			return err
		}
		host.Subnets = own.Subnets
	}
	set, err := g.rules(f, host)
	if err != nil {
		return err
	}
	s := filterState{Text: set.Text}
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

// dropFilter takes a family's rules and connections away, and the host's
// forwarding with the last family that needed it.
func (g Guests) dropFilter(ctx context.Context, name string) error {
	s, err := g.readFilter(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	g.Step("taking away the filter rules of %s", name)
	err = errors.Join(netfilter.Remove(ctx, g.Runner, name), g.stopForwarding(ctx, name))
	if err != nil {
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
	case got != s.Listing:
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

// joined checks that a target's ports are on the bridges that the rules know them
// on, and that nobody else is there.
func joined(f *family.Family, t *family.Target) error {
	known := map[string]bool{}
	for _, p := range f.Policy.Ports {
		known[netfilter.Device(f.Name+"-"+p.Target, p.Index)] = true
	}
	for _, p := range f.Policy.PortsOf(t.Name) {
		dev := netfilter.Device(t.FullID(), p.Index)
		ports, err := filepath.Glob(filepath.Join("/sys/class/net", p.Bridge, "brif", "*"))
		if err != nil {
			return err
		}
		for i := range ports {
			ports[i] = filepath.Base(ports[i])
		}
		if !slices.Contains(ports, dev) {
			return fmt.Errorf("%s: its port %s is not on the bridge %s", t.FullID(), dev, p.Bridge)
		}
		// libvirt gives older bridges a port of their own to hold a MAC: BRIDGE-nic.
		other := slices.IndexFunc(ports, func(d string) bool { return !known[d] && d != p.Bridge+"-nic" })
		if other >= 0 {
			return fmt.Errorf("the bridge %s has a port %s that the policy does not know", p.Bridge, ports[other])
		}
	}
	return nil
}

// pauser is a libvirt that can hold a guest until its network is known.
type pauser interface {
	CreatePaused(ctx context.Context, xml string) error
	Resume(ctx context.Context, name string) error
}

var _ pauser = (*virt.Conn)(nil)

// create starts a domain. One under a policy is held until its ports are where
// the rules know them.
func (r *run) create(ctx context.Context, t *family.Target, doc virt.Document) error {
	if r.family.Policy == nil {
		return r.daemon.CreateDomain(ctx, doc.XML)
	}
	p, ok := r.daemon.(pauser)
	if !ok {
		return errors.New("this libvirt cannot start a guest paused, which a family with a policy needs")
	}
	doc, err := doc.WithPorts(func(iface int) string { return netfilter.Device(t.FullID(), iface) })
	if err != nil {
		return err
	}
	return p.CreatePaused(ctx, doc.XML)
}

// release lets the started guests run, after a last look at what isolates them.
func (r *run) release(ctx context.Context) error {
	if r.family.Policy == nil {
		return nil
	}
	for _, d := range r.domains {
		if err := joined(r.family, d.target); err != nil {
			return err
		}
	}
	if err := r.checkFilter(ctx); err != nil {
		return err
	}
	for _, d := range r.domains {
		if err := r.daemon.(pauser).Resume(ctx, d.target.FullID()); err != nil {
			return err
		}
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
	if _, err := r.readFilter(r.family.Name); errors.Is(err, fs.ErrNotExist) {
		if err := r.noteFilter(r.family.Name, filterState{}); err != nil {
			return err
		}
	}
	guarded, err := r.noteForwarding(ctx, r.family)
	if err != nil {
		return err
	}
	return r.loadFilter(ctx, r.family, guarded)
}

// leave takes away the rules of those of these families of which nothing runs any
// more, and the bridges that a libvirt which died has left of them.
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
			faults = append(faults, g.dropFilter(ctx, name), g.dropLeftBridges(ctx, d, name))
		}
	}
	return errors.Join(faults...)
}

// dropLeftBridges removes a family's bridges that libvirt knows nothing of. The caller
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
		faults = append(faults, virt.RemoveBridge(ctx, g.Runner, bridge))
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
