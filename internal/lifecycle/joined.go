package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/netfilter"
	"meros/internal/virt"
)

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

// enforceable checks that the rules of a family hold for guests that run already. Those
// started without a policy have ports that no rule matches.
func enforceable(f *family.Family, running []*family.Target) error {
	if f.Policy == nil {
		return nil
	}
	var faults []error
	for _, t := range running {
		faults = append(faults, joined(f, t))
	}
	return hint.Add(errors.Join(faults...), "meros shutdown %s, then meros init %s: ports have to be known before guests run", f.Name, f.Name)
}

// runningOf returns the targets of a family whose guests run.
func (g Guests) runningOf(f *family.Family, domains []virt.Domain) []*family.Target {
	return slices.DeleteFunc(slices.Clone(f.Targets), func(t *family.Target) bool {
		own := virt.Owner{Family: f.Name, Target: t.Name, Root: g.root()}
		return !slices.ContainsFunc(domains, func(d virt.Domain) bool { return d.Owner == own && d.State.Active() })
	})
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

// isolated is the last look at what isolates guests before they run.
func (r *run) isolated(ctx context.Context) error {
	if err := enforceable(r.family, r.ranBefore); err != nil || r.family.Policy == nil {
		return err
	}
	for _, d := range r.domains {
		if err := joined(r.family, d.target); err != nil {
			return err
		}
	}
	return r.checkFilter(ctx)
}
