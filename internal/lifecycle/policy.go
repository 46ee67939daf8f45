package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/netfilter"
	"meros/internal/virt"
)

// ErrNoPolicy is wrapped by the errors about a family that has no policy.
var ErrNoPolicy = errors.New("no policy")

// rules compiles all filter rules of a family; with no policy and no files of its
// own they are empty.
func (g Guests) rules(f *family.Family, host netfilter.Host) (netfilter.Ruleset, error) {
	set := netfilter.Ruleset{Family: f.Name}
	if f.Policy != nil {
		var err error
		if set, err = netfilter.Compile(f, host, virt.MAC); err != nil {
			return set, err
		}
	}
	for _, file := range f.Netfilter {
		text, err := os.ReadFile(file)
		if err != nil {
			return set, err
		}
		if set, err = set.With(file, string(text), f); err != nil {
			return set, err
		}
	}
	return set, nil
}

// Rules returns the rules of a family with a policy, as they would be loaded now.
func (g Guests) Rules(f *family.Family) (netfilter.Ruleset, error) {
	if f.Policy == nil {
		err := fmt.Errorf("%s: %w: who may talk to whom is not said", f.Name, ErrNoPolicy)
		return netfilter.Ruleset{}, hint.Add(err, "write %s/netfilter/policy.xml; docs/policy.md says how", f.Dir)
	}
	host, err := hostOf(f)
	if err != nil {
		return netfilter.Ruleset{}, err
	}
	return g.rules(f, host)
}

// Prove judges a family's policy without starting anything.
func (g Guests) Prove(ctx context.Context, f *family.Family) (netfilter.Proof, error) {
	set, err := g.Rules(f)
	if err != nil {
		return netfilter.Proof{}, err
	}
	return netfilter.Prove(ctx, g.Runner, f, set)
}

// hostOf returns what rules need to know of the host, the family's own links left
// out.
func hostOf(f *family.Family) (netfilter.Host, error) {
	var host netfilter.Host
	net, err := virt.ReadHostNet()
	if err != nil {
		return host, err
	}
	own := map[string]bool{}
	for _, s := range f.Policy.Segments {
		own[s.Bridge] = true
	}
	bridges, err := virt.Bridges()
	if err != nil {
		return host, err
	}
	for _, name := range slices.Sorted(maps.Keys(bridges)) {
		if bridges[name] && !own[name] {
			host.Bridges = append(host.Bridges, name)
		}
	}
	for _, r := range net.Routes {
		switch out, bridge := bridges[r.Link]; {
		case own[r.Link]:
		case bridge && !out:
			host.Inner = append(host.Inner, r.Subnet)
		default:
			host.Subnets = append(host.Subnets, r.Subnet)
		}
	}
	return host, nil
}

// checkPorts checks that a family's rules hold for those of its guests that run.
func (g Guests) checkPorts(ctx context.Context, f *family.Family) error {
	d, err := g.Dial(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	domains, err := d.Domains(ctx)
	if err != nil {
		return err
	}
	return enforceable(f, g.runningOf(f, domains))
}

// ApplyPolicy replaces the rules of a running family by those of its recipe and
// cuts its connections. It returns how many there were.
func (g Guests) ApplyPolicy(ctx context.Context, f *family.Family) (int, error) {
	unlock, err := g.lock(ctx, f.Name, "policy apply")
	if err != nil {
		return 0, err
	}
	defer unlock()
	act := "apply the policy of " + f.Name
	before, err := g.readFilter(f.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, hint.Add(fmt.Errorf("%s: it does not run under one", act),
			"meros shutdown %s, then meros init %s: ports have to be known before guests run", f.Name, f.Name)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", act, err)
	}
	if _, err := g.Rules(f); err != nil {
		return 0, err
	}
	if err := g.checkPorts(ctx, f); err != nil {
		return 0, fmt.Errorf("%s: %w", act, err)
	}
	err = g.loadFilter(ctx, f)
	if err == nil {
		err = g.noteForwarding(ctx, f, nil)
	}
	if err == nil {
		err = g.narrowForwarding(ctx, f)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", act, err)
	}
	now, err := g.readFilter(f.Name)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", act, err)
	}
	return netfilter.Cut(append(before.Addrs, now.Addrs...))
}
