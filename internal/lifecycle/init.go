package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/layout"
	"meros/internal/proc"
	"meros/internal/session"
	"meros/internal/ui"
	"meros/internal/virt"
)

// Guests runs the guests of families on this host.
type Guests struct {
	*ui.Streams
	Runner proc.Runner
	Paths  layout.Paths
	Getenv func(string) string
	Dial   func(context.Context) (virt.Daemon, error)
	Ready  Ready // nil: guests are not waited for

	HookTime time.Duration // how long one host hook may take; 0: two minutes
	Silence  time.Duration // after how long a console that prints nothing is no longer listened to; 0: half a minute
}

// Ready reports whether a session can be opened on a target: nil if so, else why
// not yet. passed is told of the stages that lie behind (session.Ready).
type Ready func(ctx context.Context, t *family.Target, passed func(session.Stage)) error

// InitOptions come from the call.
type InitOptions struct {
	Accel   virt.AccelMode
	NoWait  bool          // return as soon as the guests run
	Timeout time.Duration // how long to wait until sessions can be opened

	Want       virt.Resources // what each guest is to have; 0 leaves it to the recipe
	Strict     bool           // refuse what the recipe says and this host cannot do
	Disposable bool           // what the guests write is thrown away when they stop
	Fresh      bool           // refuse what runs already
	TrustHooks bool           // run host hooks that flush everybody's filter rules
	Named      bool           // the target was named: it is not left out because it is optional
}

// Init starts the networks that the targets need and the targets, runs the family's
// host hooks before and after, and waits until sessions can be opened. What runs already stays. If
// a step fails, or ctx ends, what this call had started is taken down.
func (g Guests) Init(ctx context.Context, f *family.Family, targets []*family.Target, o InitOptions) error {
	unlock, err := g.lock(ctx, f.Name, "init")
	if err != nil {
		return err
	}
	defer unlock()
	if !o.Named {
		targets = g.built(targets)
	}
	d, err := g.Dial(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := g.dropLeftBridges(ctx, d, f.Name); err != nil {
		return fmt.Errorf("init %s: %w", f.Name, err)
	}
	p, err := g.plan(ctx, d, f, targets, o)
	if err == nil && !o.TrustHooks {
		err = refuseFlush(f, family.HookPreStart, family.HookPostStart, family.HookPreStop, family.HookPostStop)
	}
	if err == nil {
		err = g.dropOverlays(ctx, d, []string{f.Name})
	}
	if err != nil {
		return fmt.Errorf("init %s: %w", f.Name, err)
	}
	r := &run{Guests: g, daemon: d, plan: p}
	if err := r.all(ctx, o); err != nil {
		return errors.Join(fmt.Errorf("init %s: %w", f.Name, err), r.rollBack(ctx, err, o))
	}
	return nil
}

// lock takes a family's lock for an act, and says whom it waits for.
func (g Guests) lock(ctx context.Context, name, act string) (func(), error) {
	unlock, err := g.Paths.Lock(ctx, name, act+" "+name, func(holder string) { g.Step("waiting for: %s", holder) })
	if errors.Is(err, fs.ErrPermission) {
		err = hint.Add(err, "%s belongs to somebody else: use sudo, or a root folder of your own (--root)", g.Paths.Data())
	}
	return unlock, err
}

func (g Guests) root() string { return virt.RootOf(g.Paths.Root) }

// run is one Init under way.
type run struct {
	Guests
	plan
	daemon virt.Daemon

	// What was asked of libvirt, noted before it answers: a call that was cut off
	// may still come true.
	networksAsked, domainsAsked []string

	filterSet bool        // whether filter rules were loaded, or are being so
	before    filterState // the rules that there were before
	hooked    bool        // whether host hooks were run, or are being so
}

// all does the steps of Init, in order.
func (r *run) all(ctx context.Context, o InitOptions) error {
	if r.accel.Why != "" && len(r.domains) > 0 {
		r.Step("%s", r.accel.Why)
	}
	for _, w := range r.warnings {
		r.Warn("%s", w)
	}
	r.hooked = len(r.family.Hooks) > 0
	if err := errors.Join(r.noteHooked(r.family), r.runHooks(ctx, r.family, family.HookPreStart, r.targets)); err != nil {
		return err
	}
	// What isolates is there before what it isolates; docs/policy.md has the order.
	if err := r.setFilter(ctx); err != nil {
		return err
	}
	if err := r.noteForwarding(ctx, r.family, r.networks); err != nil {
		return err
	}
	for _, n := range r.networks {
		if err := r.startNetwork(ctx, n); err != nil {
			return err
		}
	}
	if err := r.narrowForwarding(ctx, r.family); err != nil {
		return err
	}
	if err := r.startDomains(ctx); err != nil {
		return err
	}
	if err := r.release(ctx); err != nil {
		return err
	}
	if err := r.runHooks(ctx, r.family, family.HookPostStart, r.targets); err != nil {
		return err
	}
	if err := r.checkFilter(ctx); err != nil {
		return err
	}
	if o.NoWait || r.Ready == nil {
		return nil
	}
	return r.wait(ctx, o.Timeout)
}

func (r *run) startNetwork(ctx context.Context, n virt.NetworkDoc) error {
	r.Step("starting network %s", n.Name)
	r.networksAsked = append(r.networksAsked, n.Name)
	if err := r.daemon.CreateNetwork(ctx, n.XML); err != nil {
		return fmt.Errorf("start network %s: %w", n.Name, err)
	}
	return nil
}

func (r *run) startDomain(ctx context.Context, d domainStart) error {
	id := d.target.FullID()
	r.Step("starting %s", id)
	if err := r.freshConsoleLog(id); err != nil {
		return err
	}
	if d.disposable {
		if err := r.makeOverlay(ctx, id); err != nil {
			return fmt.Errorf("start %s: %w", id, err)
		}
		if r.lendImage(id) {
			d.doc = d.doc.WithBacking(r.Paths.Overlay(id), r.Paths.Image(id))
		}
	}
	err := r.create(ctx, d.target, d.doc)
	// A security module may keep libvirt from writing where our logs are.
	if log := consoleLog(r.Paths, id); err != nil && ctx.Err() == nil && strings.Contains(err.Error(), log) {
		r.Warn("%s: libvirt may not write %s: its console is not kept", id, log)
		err = r.create(ctx, d.target, d.doc.WithoutConsoleLog(log))
	}
	if err != nil {
		return startHint(fmt.Errorf("start %s: %w", id, err))
	}
	return nil
}

func startHint(err error) error {
	if words := err.Error(); strings.Contains(words, "cannot set up guest memory") || strings.Contains(words, "Cannot allocate memory") {
		return hint.Add(err, "this host has not that much memory free: --memory gives each guest less, and `meros info` shows what runs")
	}
	return err
}

const (
	// rollBackTime bounds how long a failed Init takes to clean up.
	rollBackTime = 30 * time.Second
	// lateTime is how long a call that was cut off may take to come true; starting a
	// domain takes libvirt 0.6 s.
	lateTime = 3 * time.Second
)

// rollBack takes down what was asked of libvirt, because of why. It works after ctx
// has ended.
func (r *run) rollBack(ctx context.Context, why error, o InitOptions) error {
	if len(r.domainsAsked)+len(r.networksAsked) == 0 && !r.filterSet && !r.hooked {
		return nil
	}
	whole := context.WithoutCancel(ctx)
	err := r.takeDown(ctx, why)
	if !r.hooked {
		return err
	}
	return errors.Join(err, r.hooksBack(whole, o))
}

// hooksBack runs the hooks of post-stop for what this call was to start and does
// not run.
func (r *run) hooksBack(ctx context.Context, o InitOptions) error {
	domains, err := r.daemon.Domains(ctx)
	if err != nil {
		return err
	}
	gone := slices.DeleteFunc(slices.Clone(r.targets), func(t *family.Target) bool {
		return slices.ContainsFunc(domains, func(d virt.Domain) bool { return d.Name == t.FullID() && d.State.Active() })
	})
	if len(gone) == 0 {
		return nil
	}
	return r.postStop(ctx, r.daemon, []stopping{{r.family, gone}}, ShutdownOptions{TrustHooks: o.TrustHooks})
}

// takeDown does rollBack's work on libvirt and the rules.
func (r *run) takeDown(ctx context.Context, why error) error {
	cut := ctx.Err() != nil || errors.Is(why, virt.ErrUnreachable)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollBackTime)
	defer cancel()
	r.Step("taking down what was started")
	restored := r.restoreFilter(ctx) // first: guests of before may be without rules
	for deadline := time.Now().Add(lateTime); ; {
		if err := r.sweep(ctx); err != nil {
			return errors.Join(restored, fmt.Errorf("take down what was started: %w", err))
		}
		late := len(r.domainsAsked)+len(r.networksAsked) > 0
		if !cut || !late || time.Now().After(deadline) {
			return errors.Join(restored, r.dropOverlays(ctx, r.daemon, []string{r.family.Name}), r.leave(ctx, r.daemon, r.family.Name))
		}
		time.Sleep(pollEvery)
	}
}

// sweep destroys what is there of the things asked for, and strikes it off the
// lists. Only what carries our mark is touched.
func (r *run) sweep(ctx context.Context) error {
	domains, err := r.daemon.Domains(ctx)
	if err != nil {
		return err
	}
	var faults []error
	for _, d := range domains {
		if slices.Contains(r.domainsAsked, d.Name) && r.owns(d.Owner) {
			faults = append(faults, r.daemon.DestroyDomain(ctx, d))
			r.domainsAsked = slices.DeleteFunc(r.domainsAsked, func(name string) bool { return name == d.Name })
		}
	}
	networks, err := r.daemon.Networks(ctx)
	faults = append(faults, err)
	for _, n := range networks {
		if slices.Contains(r.networksAsked, n.Name) && r.owns(n.Owner) {
			faults = append(faults, r.daemon.DestroyNetwork(ctx, n))
			r.networksAsked = slices.DeleteFunc(r.networksAsked, func(name string) bool { return name == n.Name })
		}
	}
	return errors.Join(faults...)
}

func (r *run) owns(o virt.Owner) bool {
	return o.Family == r.family.Name && o.Root == r.root()
}
