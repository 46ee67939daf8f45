package lifecycle

import (
	"context"
	"errors"
	"fmt"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/virt"
)

// Running returns the running domain of a full id and the libvirt that runs it,
// which the caller closes. It needs no recipe: one is only asked for where
// nothing runs, to tell a wrong name from a guest that is off.
func (g Guests) Running(ctx context.Context, fullID string) (virt.Daemon, virt.Domain, error) {
	d, err := g.Dial(ctx)
	if err != nil {
		return nil, virt.Domain{}, err
	}
	dom, err := g.runningDomain(ctx, d, fullID)
	if err != nil {
		return nil, dom, errors.Join(err, d.Close())
	}
	return d, dom, nil
}

func (g Guests) runningDomain(ctx context.Context, d virt.Daemon, fullID string) (virt.Domain, error) {
	domains, err := d.Domains(ctx)
	if err != nil {
		return virt.Domain{}, err
	}
	for _, dom := range domains {
		switch {
		case dom.Name != fullID || !dom.State.Active():
		case dom.Owner.Root != g.root():
			return dom, foreign("domain", fullID, dom.Owner, virt.Owner{}, string(dom.State))
		default:
			return dom, nil
		}
	}
	if _, _, err := family.LoadTarget(g.Paths, fullID); errors.Is(err, family.ErrNotFound) || errors.Is(err, family.ErrBadName) {
		return virt.Domain{}, err
	}
	return virt.Domain{}, hint.Add(fmt.Errorf("%s does not run", fullID), "start it: meros init %s", fullID)
}
