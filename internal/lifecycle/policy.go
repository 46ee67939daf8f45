package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"

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
	for _, r := range net.Routes {
		if !own[r.Link] {
			host.Subnets = append(host.Subnets, r.Subnet)
		}
	}
	return host, nil
}
