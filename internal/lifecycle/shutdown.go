package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"meros/internal/layout"
	"meros/internal/virt"
)

// askAgain is how often a guest is asked to power off: one that still boots has
// nobody who listens.
const askAgain = 4 * time.Second

// askTime is how long QEMU may take to pass the wish on, which it does in some
// milliseconds. libvirt itself waits for ever for one that has stopped.
const askTime = 5 * time.Second

// errStuck ends a call to a guest whose QEMU does not answer.
var errStuck = errors.New("its QEMU does not answer")

// ShutdownOptions come from the call.
type ShutdownOptions struct {
	Family string        // "": all families of this root
	Target string        // "": all targets
	Force  bool          // cut the power at once
	Grace  time.Duration // how long guests may take before their power is cut

	TrustHooks bool // run host hooks that flush everybody's filter rules
}

// Shutdown stops what meros runs from this root, and then takes down the networks
// of the same families that no guest uses any more. It needs no recipe, but for
// host hooks: one that fails, or whose recipe cannot be read, keeps nothing from
// being stopped. It returns how many domains and networks there were.
func (g Guests) Shutdown(ctx context.Context, o ShutdownOptions) (int, error) {
	d, err := g.Dial(ctx)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	families := []string{o.Family}
	if o.Family == "" {
		if families, err = g.runningFamilies(ctx, d); err != nil {
			return 0, err
		}
	}
	return g.shutdownFamilies(ctx, d, families, o)
}

func (g Guests) shutdownFamilies(ctx context.Context, d virt.Daemon, families []string, o ShutdownOptions) (int, error) {
	unlock, err := g.lockAll(ctx, families, "shutdown")
	if err != nil {
		return 0, err
	}
	defer unlock()
	mine := func(owner virt.Owner) bool {
		return owner.Root == g.root() && slices.Contains(families, owner.Family)
	}
	picked := func(d virt.Domain) bool {
		return mine(d.Owner) && (o.Target == "" || d.Owner.Target == o.Target)
	}
	domains, err := d.Domains(ctx)
	if err != nil {
		return 0, fmt.Errorf("shutdown: %w", err)
	}
	plan := g.planStop(domains, families, picked)
	soft, hookErr := g.preStop(ctx, plan, o)
	s := stopper{Guests: g, daemon: d, force: o.Force || !soft, grace: o.Grace}
	n, err := s.stopDomains(ctx, picked)
	if err != nil {
		return n, fmt.Errorf("shutdown: %w", errors.Join(err, hookErr))
	}
	removed, err := s.removeNetworks(ctx, mine)
	err = errors.Join(err, g.dropOverlays(ctx, d, families), g.leave(ctx, d, families...))
	if err := errors.Join(err, hookErr, g.postStop(ctx, d, plan, o)); err != nil {
		return n, fmt.Errorf("shutdown: %w", err)
	}
	if n+removed == 0 && len(plan) == 0 {
		g.Step("nothing runs%s", of(o))
	}
	return n + removed, nil
}

func of(o ShutdownOptions) string {
	switch {
	case o.Family == "":
		return ""
	case o.Target == "":
		return " of " + o.Family
	}
	return ": " + o.Family + "-" + o.Target
}

// Active returns the running domains of the host, anybody's.
func (g Guests) Active(ctx context.Context) ([]virt.Domain, error) {
	d, err := g.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	domains, err := d.Domains(ctx)
	return slices.DeleteFunc(domains, func(d virt.Domain) bool { return !d.State.Active() }), err
}

// ShutdownAll stops these domains, whoever made them, and then takes down the
// networks that meros made from this root.
func (g Guests) ShutdownAll(ctx context.Context, domains []virt.Domain, o ShutdownOptions) error {
	d, err := g.Dial(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	names := map[string]bool{}
	for _, dom := range domains {
		names[dom.Name] = true
	}
	picked := func(d virt.Domain) bool { return names[d.Name] }
	families, err := g.runningFamilies(ctx, d)
	if err != nil {
		return fmt.Errorf("shutdown-all: %w", err)
	}
	unlock, err := g.lockAll(ctx, families, "shutdown-all")
	if err != nil {
		return fmt.Errorf("shutdown-all: %w", err)
	}
	defer unlock()
	plan := g.planStop(domains, families, picked)
	soft, hookErr := g.preStop(ctx, plan, o)
	s := stopper{Guests: g, daemon: d, force: o.Force || !soft, grace: o.Grace}
	if _, err := s.stopDomains(ctx, picked); err != nil {
		return fmt.Errorf("shutdown-all: %w", errors.Join(err, hookErr))
	}
	_, err = s.removeNetworks(ctx, func(o virt.Owner) bool { return o.Root == g.root() && slices.Contains(families, o.Family) })
	err = errors.Join(err, hookErr, g.dropOverlays(ctx, d, families), g.leave(ctx, d, families...))
	return errors.Join(err, g.postStop(ctx, d, plan, o))
}

// lockAll takes the locks of families in their order, so that no two calls wait for
// each other.
func (g Guests) lockAll(ctx context.Context, families []string, act string) (unlock func(), err error) {
	var held []func()
	unlock = func() {
		for _, free := range held {
			free()
		}
	}
	for _, name := range families {
		free, err := g.lock(ctx, name, act)
		if err != nil {
			unlock()
			return nil, err
		}
		held = append(held, free)
	}
	return unlock, nil
}

// runningFamilies returns the families of this root of which libvirt has
// anything, sorted.
func (g Guests) runningFamilies(ctx context.Context, d virt.Daemon) ([]string, error) {
	domains, err := d.Domains(ctx)
	if err != nil {
		return nil, err
	}
	networks, err := d.Networks(ctx)
	if err != nil {
		return nil, err
	}
	names, err := g.familiesOfOverlays()
	if err != nil {
		return nil, err
	}
	names = slices.Concat(names, g.filtered(), g.forwarded(), g.hooked(), g.withLeftBridges(networks))
	add := func(o virt.Owner) {
		// The name becomes a lock's file: what libvirt holds was ours, but may have
		// been edited since.
		if o.Root == g.root() && layout.CheckFamily(o.Family) == nil {
			names = append(names, o.Family)
		}
	}
	for _, d := range domains {
		add(d.Owner)
	}
	for _, n := range networks {
		add(n.Owner)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// stopper stops domains and networks.
type stopper struct {
	Guests
	daemon virt.Daemon
	force  bool
	grace  time.Duration
}

// stopWave ends these domains, which are those that which picks.
func (s stopper) stopWave(ctx context.Context, running []virt.Domain, which func(virt.Domain) bool) (err error) {
	verb := "shutting down"
	if s.force {
		verb = "cutting the power of"
	}
	s.Step("%s %s", verb, names(running))
	if !s.force {
		if running, err = s.ask(ctx, running, which); err != nil {
			return err
		}
	}
	// Side by side: libvirt gives a QEMU that does not answer ten seconds.
	var all sync.WaitGroup
	faults := make([]error, len(running))
	for i, d := range running {
		all.Go(func() { faults[i] = s.daemon.DestroyDomain(ctx, d) })
	}
	all.Wait()
	return errors.Join(faults...)
}

func (s stopper) running(ctx context.Context, which func(virt.Domain) bool) ([]virt.Domain, error) {
	domains, err := s.daemon.Domains(ctx)
	return slices.DeleteFunc(domains, func(d virt.Domain) bool { return !d.State.Active() || !which(d) }), err
}

// ask asks guests to power off until they have or the grace is over, and returns
// those that are left. It does not wait for those that cannot hear.
func (s stopper) ask(ctx context.Context, running []virt.Domain, which func(virt.Domain) bool) ([]virt.Domain, error) {
	deadline := time.Now().Add(s.grace)
	var asked time.Time
	stuck := map[string]bool{}
	for len(running) > 0 && time.Now().Before(deadline) {
		deaf := slices.IndexFunc(running, func(d virt.Domain) bool { return d.State == virt.StatePaused || d.State == virt.StateCrashed })
		if deaf >= 0 {
			s.Warn("%s is %s and cannot shut down: its power is cut", running[deaf].Name, running[deaf].State)
			if err := s.daemon.DestroyDomain(ctx, running[deaf]); err != nil {
				return running, err
			}
		}
		if time.Since(asked) >= askAgain {
			asked = time.Now()
			s.askOnce(ctx, running, stuck)
		}
		if !slices.ContainsFunc(running, func(d virt.Domain) bool { return !stuck[d.Name] }) {
			return running, nil
		}
		select {
		case <-ctx.Done():
			return running, context.Cause(ctx)
		case <-time.After(pollEvery):
		}
		var err error
		if running, err = s.running(ctx, which); err != nil {
			return nil, err
		}
	}
	if len(running) > 0 {
		s.Warn("not powered off within %s, the power is cut: %s", s.grace, names(running))
	}
	return running, nil
}

// askOnce asks each guest that is not stuck. One that cannot be asked is cut off in
// the end like one that does not listen.
func (s stopper) askOnce(ctx context.Context, running []virt.Domain, stuck map[string]bool) {
	for _, d := range running {
		if stuck[d.Name] {
			continue // libvirt still waits for the answer to the first call
		}
		limited, stop := context.WithTimeoutCause(ctx, askTime, errStuck)
		err := s.daemon.ShutdownDomain(limited, d)
		stop()
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, errStuck):
			stuck[d.Name] = true
			s.Warn("%s: its QEMU does not answer libvirt: its power is cut", d.Name)
		case d.State == virt.StateRunning:
			s.Warn("%v", err)
		}
	}
}

// removeNetworks takes down the networks that mine picks and no running domain
// joins, and returns how many.
func (s stopper) removeNetworks(ctx context.Context, mine func(virt.Owner) bool) (int, error) {
	networks, err := s.daemon.Networks(ctx)
	if err != nil {
		return 0, err
	}
	domains, err := s.running(ctx, func(virt.Domain) bool { return true })
	if err != nil {
		return 0, err
	}
	removed := 0
	var faults []error
	for _, n := range networks {
		if !n.Active || !mine(n.Owner) {
			continue
		}
		if user, used := userOf(n.Name, domains); used {
			s.Step("network %s stays: %s uses it", n.Name, user)
			continue
		}
		s.Step("taking down network %s", n.Name)
		faults = append(faults, s.daemon.DestroyNetwork(ctx, n))
		removed++
	}
	return removed, errors.Join(faults...)
}

// userOf returns a domain that joins a network.
func userOf(network string, domains []virt.Domain) (string, bool) {
	at := slices.IndexFunc(domains, func(d virt.Domain) bool { return slices.Contains(d.Joins(), network) })
	if at < 0 {
		return "", false
	}
	return domains[at].Name, true
}

func names(domains []virt.Domain) string {
	var list []string
	for _, d := range domains {
		list = append(list, d.Name)
	}
	return strings.Join(list, ", ")
}
