package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"meros/internal/family"
	"meros/internal/virt"
)

// startDomains starts the domains rank by rank, those of one rank side by side. Under
// a policy all are made at once: none of them runs before release.
func (r *run) startDomains(ctx context.Context) error {
	rank := func(d domainStart) int { return r.family.Rank(d.target) }
	if r.family.Policy != nil {
		rank = func(domainStart) int { return 0 }
	}
	for _, wave := range inRanks(r.domains, rank) {
		var all sync.WaitGroup
		faults := make([]error, len(wave))
		for i, d := range wave {
			r.domainsAsked = append(r.domainsAsked, d.target.FullID())
			all.Go(func() { faults[i] = r.startDomain(ctx, d) })
		}
		all.Wait()
		if err := errors.Join(faults...); err != nil {
			return err
		}
	}
	return nil
}

// inRanks parts a list by rank, the lowest first.
func inRanks[T any](list []T, rank func(T) int) [][]T {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b T) int { return rank(a) - rank(b) })
	var waves [][]T
	for i, v := range list {
		if i == 0 || rank(v) != rank(list[i-1]) {
			waves = append(waves, nil)
		}
		waves[len(waves)-1] = append(waves[len(waves)-1], v)
	}
	return waves
}

// release lets guests run, rank by rank: those that were held until what isolates
// them was there, and those that a meros which died had started paused, or that ran
// into a full disk.
func (r *run) release(ctx context.Context) error {
	if err := r.isolated(ctx); err != nil {
		return err
	}
	held := slices.Clone(r.paused)
	if r.family.Policy != nil {
		for _, d := range r.domains {
			held = append(held, d.target)
		}
	}
	for _, wave := range inRanks(held, r.family.Rank) {
		for _, t := range wave {
			if err := r.letRun(ctx, t); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *run) letRun(ctx context.Context, t *family.Target) error {
	p, ok := r.daemon.(pauser)
	if !ok {
		return fmt.Errorf("%s is paused, and this libvirt cannot let it run on", t.FullID())
	}
	if slices.Contains(r.paused, t) {
		r.Step("letting %s run on", t.FullID())
	}
	err := p.Resume(ctx, t.FullID())
	if err == nil {
		return nil
	}
	// It may have been about to start when it was looked at.
	if dom, lookErr := r.runningDomain(ctx, r.daemon, t.FullID()); lookErr != nil || dom.State != virt.StateRunning {
		return err
	}
	return nil
}

// stopDomains ends the running domains that which picks, those first that were
// started last, and returns how many there were.
func (s stopper) stopDomains(ctx context.Context, which func(virt.Domain) bool) (int, error) {
	running, err := s.running(ctx, which)
	if err != nil || len(running) == 0 {
		return 0, err
	}
	waves := inRanks(running, func(d virt.Domain) int { return -d.Mark.Rank })
	if s.force {
		waves = [][]virt.Domain{running}
	}
	for _, wave := range waves {
		names := map[string]bool{}
		for _, d := range wave {
			names[d.Name] = true
		}
		err := s.stopWave(ctx, wave, func(d virt.Domain) bool { return names[d.Name] && which(d) })
		if err != nil {
			return len(running), err
		}
	}
	return len(running), nil
}
