package lifecycle

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"meros/internal/family"
	"meros/internal/layout"
	"meros/internal/virt"
)

// noteHooked notes that hooks of a family begin to set things up, so that the next
// shutdown runs their counterparts even if meros dies and nothing runs.
func (g Guests) noteHooked(f *family.Family) error {
	if len(f.Hooks[family.HookPostStop]) == 0 {
		return nil
	}
	return g.Paths.WriteFile(g.Paths.Hooked(f.Name), nil, 0o644)
}

// hooked returns the families of this root whose hooks owe their counterparts.
func (g Guests) hooked() []string {
	files, _ := filepath.Glob(g.Paths.Hooked("*"))
	var names []string
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
		if layout.CheckFamily(name) == nil {
			names = append(names, name)
		}
	}
	return names
}

// stopping is what a shutdown has to tell the hooks of one family.
type stopping struct {
	family  *family.Family
	targets []*family.Target // those that are being stopped
}

// planStop finds the families whose hooks are to be told of a stop: those of which
// something is picked, and those whose hooks still owe their counterparts. A
// recipe that cannot be read stops nobody from shutting down.
func (g Guests) planStop(domains []virt.Domain, families []string, picked func(virt.Domain) bool) []stopping {
	owed := g.hooked()
	var plan []stopping
	for _, name := range families {
		var names []string
		for _, d := range domains {
			if d.State.Active() && d.Owner.Family == name && d.Owner.Root == g.root() && picked(d) {
				names = append(names, d.Owner.Target)
			}
		}
		if len(names) == 0 && !slices.Contains(owed, name) {
			continue
		}
		f, err := family.Load(g.Paths, name)
		switch {
		case err == nil:
			targets := slices.DeleteFunc(slices.Clone(f.Targets), func(t *family.Target) bool { return !slices.Contains(names, t.Name) })
			plan = append(plan, stopping{f, targets})
		case exists(filepath.Join(g.Paths.Family(name), "hooks")):
			g.Warn("%s: its hooks of pre-stop and post-stop are not run: %v", name, err)
		}
	}
	return plan
}

// preStop runs the hooks of pre-stop. soft is false when a family's rules are not
// what they were once its hooks had run: its guests must not go on for the time
// that powering off takes.
func (g Guests) preStop(ctx context.Context, plan []stopping, o ShutdownOptions) (soft bool, err error) {
	soft = true
	var faults []error
	for _, s := range plan {
		if len(s.targets) == 0 || len(s.family.Hooks[family.HookPreStop]) == 0 {
			continue
		}
		faults = append(faults, g.stopHooks(ctx, s, family.HookPreStop, o))
		if now := g.filterNow(ctx, s.family.Name); now != "" && now != FilterOK {
			g.Warn("the filter rules of %s are %s after its hooks: the power of its guests is cut", s.family.Name, now)
			soft = false
		}
	}
	return soft, errors.Join(faults...)
}

// postStop runs the hooks of post-stop. A family of which nothing runs any more
// owes nothing then.
func (g Guests) postStop(ctx context.Context, d virt.Daemon, plan []stopping, o ShutdownOptions) error {
	if len(plan) == 0 {
		return nil
	}
	domains, err := d.Domains(ctx)
	faults := []error{err}
	for _, s := range plan {
		fault := g.stopHooks(ctx, s, family.HookPostStop, o)
		faults = append(faults, fault)
		runs := slices.ContainsFunc(domains, func(d virt.Domain) bool {
			return d.State.Active() && d.Owner.Family == s.family.Name && d.Owner.Root == g.root()
		})
		if fault == nil && err == nil && !runs {
			if err := os.Remove(g.Paths.Hooked(s.family.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				faults = append(faults, err)
			}
		}
	}
	return errors.Join(faults...)
}

func (g Guests) stopHooks(ctx context.Context, s stopping, phase family.HookPhase, o ShutdownOptions) error {
	if !o.TrustHooks {
		if err := refuseFlush(s.family, phase); err != nil {
			return err
		}
	}
	return g.runHooks(ctx, s.family, phase, s.targets)
}
