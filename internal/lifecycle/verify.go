package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"meros/internal/capture"
	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/netfilter"
	"meros/internal/virt"
)

// VerifyOptions come from the call.
type VerifyOptions struct {
	Disrupt bool           // restart guests while the others send
	Accel   virt.AccelMode // of those that are started again
	Timeout time.Duration  // how long a guest may take to come back
}

// Verification is what `meros verify` found.
type Verification struct {
	Family  string             `json:"family"`
	Phases  []netfilter.Tally  `json:"phases"`
	Leaks   []netfilter.Leak   `json:"leaks"`
	More    int                `json:"moreLeaks,omitempty"` // kinds of leaks beyond those listed
	Missed  []netfilter.Missed `json:"missed"`
	Packets int                `json:"packets"` // that passed the family's ports
	Filter  string             `json:"filter"`  // the rules in the kernel: ok, or what they are else
	Untried []string           `json:"untried"` // why a part of the policy was not tried at all
	Notes   []string           `json:"notes"`   // what else could not be looked at
}

// Holds reports whether the policy held, of all that was tried.
func (v Verification) Holds() bool {
	return len(v.Leaks) == 0 && len(v.Missed) == 0 && v.Filter == FilterOK
}

// verifier is one verification under way.
type verifier struct {
	Guests
	VerifyOptions
	f       *family.Family
	daemon  virt.Daemon
	rules   netfilter.Ruleset
	watch   *netfilter.Watch
	around  netfilter.Surroundings
	running map[string]virt.Domain // by target
	senders []*sender
	out     Verification
}

// Verify has the running guests of a family send what its policy allows and what it
// does not, and sees on the host's links what comes of it. The verdict rests on what
// was seen alone. It takes root.
func (g Guests) Verify(ctx context.Context, f *family.Family, o VerifyOptions) (Verification, error) {
	v := &verifier{Guests: g, VerifyOptions: o, f: f}
	v.out = Verification{Family: f.Name, Leaks: []netfilter.Leak{}, Missed: []netfilter.Missed{}, Untried: []string{}, Notes: []string{}}
	if err := v.prepare(ctx); err != nil {
		return v.out, fmt.Errorf("verify %s: %w", f.Name, err)
	}
	defer v.daemon.Close()
	host, err := hostOf(f)
	if err != nil {
		return v.out, fmt.Errorf("verify %s: %w", f.Name, err)
	}
	v.watch, err = netfilter.NewWatch(netfilter.NewOracle(f, v.rules, host, v.around.Host))
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			err = hint.Add(err, "to see what passes takes root (CAP_NET_RAW): sudo meros verify %s", f.Name)
		}
		return v.out, fmt.Errorf("verify %s: %w", f.Name, err)
	}
	err = v.phases(ctx)
	v.tidy(ctx)
	v.out.Leaks, v.out.More = v.watch.Leaks()
	v.out.Packets = v.watch.Packets()
	if err := errors.Join(err, v.watch.Close()); err != nil {
		return v.out, fmt.Errorf("verify %s: %w", f.Name, err)
	}
	return v.out, nil
}

// prepare finds out what runs, and what is around it.
func (v *verifier) prepare(ctx context.Context) error {
	var err error
	if v.rules, err = v.Rules(v.f); err != nil {
		return err
	}
	if v.daemon, err = v.Dial(ctx); err != nil {
		return err
	}
	domains, err := v.daemon.Domains(ctx)
	if err == nil {
		err = v.look(ctx, domains)
	}
	if err != nil {
		return errors.Join(err, v.daemon.Close())
	}
	return nil
}

func (v *verifier) look(ctx context.Context, domains []virt.Domain) error {
	v.running = map[string]virt.Domain{}
	for _, d := range domains {
		if d.State == virt.StateRunning && d.Owner.Root == v.root() && d.Owner.Family == v.f.Name {
			v.running[d.Owner.Target] = d
		}
	}
	if len(v.running) == 0 {
		return hint.Add(errors.New("nothing of it runs"), "meros init %s; without guests, meros prove %s tries the rules", v.f.Name, v.f.Name)
	}
	for _, t := range v.f.Targets {
		switch _, runs := v.running[t.Name]; {
		case !runs:
			if len(v.f.Policy.PortsOf(t.Name)) > 0 {
				v.untried("%s does not run: nothing was sent by it, nor was it seen to receive", t.FullID())
			}
		case !t.HasSession():
			v.note("%s takes no sessions: it was sent to, and sent nothing by itself", t.FullID())
		default:
			v.senders = append(v.senders, newSender(v, t))
		}
	}
	if len(v.senders) == 0 {
		v.untried("no guest that runs takes sessions: nothing was sent by any")
	}
	v.note("nobody outside could be asked to send: what lan and internet may begin, `meros prove %s` tries", v.f.Name)
	v.out.Filter = v.filterNow(ctx, v.f.Name)
	var err error
	if v.around.Host, err = capture.Addrs(); err != nil {
		return err
	}
	v.around.Others = v.strangers(domains)
	v.around.MACs = map[string]string{}
	for _, s := range v.f.Policy.Segments {
		if v.around.MACs[s.Bridge], err = capture.HardwareAddr(s.Bridge); err != nil {
			return fmt.Errorf("the bridge %s: %w", s.Bridge, err)
		}
	}
	return nil
}

// strangers are the addresses of guests of other families.
func (v *verifier) strangers(domains []virt.Domain) []netip.Addr {
	var list []netip.Addr
	for _, d := range domains {
		if !d.State.Active() || d.Owner.Root != v.root() || d.Owner.Family == v.f.Name {
			continue
		}
		_, t, err := family.LoadTarget(v.Paths, d.Name)
		if err == nil && t.Addr.IsValid() {
			list = append(list, t.Addr)
		}
	}
	return list
}

func (v *verifier) note(format string, args ...any) {
	v.out.Notes = append(v.out.Notes, fmt.Sprintf(format, args...))
}

func (v *verifier) untried(format string, args ...any) {
	v.out.Untried = append(v.out.Untried, fmt.Sprintf(format, args...))
}

// plan lists what all send.
func (v *verifier) plan() []*netfilter.Planned {
	var names []string
	for _, s := range v.there() {
		names = append(names, s.target.Name)
	}
	runs := map[string]bool{} // by the host's end of a port
	for _, p := range v.rules.Ports {
		_, runs[p.Dev] = v.running[p.Target]
	}
	return slices.DeleteFunc(netfilter.Plan(v.f, v.rules, v.around, names), func(p *netfilter.Planned) bool {
		// Nobody is there for it to arrive at, or to hand it on.
		return len(p.Expect) > 0 && !p.Beyond && !slices.ContainsFunc(p.Expect, func(dev string) bool { return runs[dev] })
	})
}

// firstPhase is of guests that nothing is done to.
const firstPhase = "as it is"

// phases are what a verification does, in order.
func (v *verifier) phases(ctx context.Context) error {
	if err := v.volley(ctx, firstPhase); err != nil {
		return err
	}
	if v.out.Filter == FilterOK {
		if err := v.during(ctx, nil, "rules are loaded anew", v.reload); err != nil {
			return err
		}
	} else {
		v.note("the rules in the kernel are %s: they were not loaded anew", v.out.Filter)
	}
	if !v.Disrupt {
		return nil
	}
	for _, t := range v.inTurn() {
		if err := v.disrupt(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// inTurn lists the running targets, next hops of others first.
func (v *verifier) inTurn() []*family.Target {
	var hops, others []*family.Target
	for _, t := range v.f.Targets {
		switch _, runs := v.running[t.Name]; {
		case !runs:
		case v.isHop(t):
			hops = append(hops, t)
		default:
			others = append(others, t)
		}
	}
	return append(hops, others...)
}

func (v *verifier) isHop(t *family.Target) bool {
	return slices.ContainsFunc(v.f.Policy.Allows, func(a *family.Allow) bool { return a.Via == t.Name })
}

// disrupt restarts a target while the others send: a next hop in every way there is.
func (v *verifier) disrupt(ctx context.Context, t *family.Target) error {
	if r, ok := v.daemon.(rebooter); ok && v.isHop(t) && t.HasSession() {
		err := v.during(ctx, t, "reboots", func(ctx context.Context) error { return v.reboot(ctx, r, t) })
		if err != nil {
			return err
		}
	}
	was := v.running[t.Name]
	if err := v.during(ctx, t, "is killed", func(ctx context.Context) error { return v.kill(ctx, t) }); err != nil {
		return err
	}
	if err := v.during(ctx, t, "starts", func(ctx context.Context) error { return v.start(ctx, t, was.Mark.Disposable) }); err != nil {
		return err
	}
	return v.volley(ctx, "after "+t.Name+" was restarted")
}

// rebooter is a libvirt that can restart guests.
type rebooter interface {
	Reboot(ctx context.Context, d virt.Domain) error
	Reset(ctx context.Context, d virt.Domain) error
}

var _ rebooter = (*virt.Conn)(nil)

const (
	// reloads is how often the rules are loaded while guests send, and pause how
	// long between two: a transaction takes a few ms.
	reloads     = 10
	reloadPause = 100 * time.Millisecond
	// gone is how long a killed guest stays away.
	gone = 2 * time.Second
	// deaf is how long a guest may take to heed a request to reboot.
	deaf = 90 * time.Second
)

// reload puts the very rules that are loaded in place again and again.
func (v *verifier) reload(ctx context.Context) error {
	unlock, err := v.lock(ctx, v.f.Name, "verify")
	if err != nil {
		return err
	}
	defer unlock()
	s, err := v.readFilter(v.f.Name)
	if err != nil {
		return err
	}
	if s.Text == "" {
		v.note("an older meros has loaded the rules and kept no text of them: they were not loaded anew")
		return nil
	}
	for range reloads {
		if _, err := netfilter.Load(ctx, v.Runner, netfilter.Ruleset{Family: v.f.Name, Text: s.Text}); err != nil {
			return err
		}
		if err := pause(ctx, reloadPause); err != nil {
			return err
		}
	}
	v.out.Filter = v.filterNow(ctx, v.f.Name)
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// reboot has a guest start anew by its own means, or, if it does not listen, by the
// button, and returns when it is back.
func (v *verifier) reboot(ctx context.Context, r rebooter, t *family.Target) error {
	s := v.senderOf(t)
	before, err := s.boot(ctx)
	if err != nil {
		return err
	}
	if err := r.Reboot(ctx, v.running[t.Name]); err != nil {
		return err
	}
	asked, pressed := time.Now(), false
	for deadline := asked.Add(deaf + v.Timeout); ; {
		if now, err := s.boot(ctx); err == nil && now != before {
			s.placed = false
			return nil
		}
		if err := pause(ctx, knockEvery); err != nil {
			return err
		}
		if time.Since(asked) > deaf && !pressed {
			v.note("%s did not reboot when it was asked to, and was reset", t.FullID())
			if err := r.Reset(ctx, v.running[t.Name]); err != nil {
				return err
			}
			pressed = true
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s has not come back from its reboot", t.FullID())
		}
	}
}

func (v *verifier) kill(ctx context.Context, t *family.Target) error {
	if err := v.daemon.DestroyDomain(ctx, v.running[t.Name]); err != nil {
		return err
	}
	delete(v.running, t.Name)
	if s := v.senderOf(t); s != nil {
		s.placed = false
	}
	return pause(ctx, gone)
}

// start brings a target up as init does, and returns when it can be used.
func (v *verifier) start(ctx context.Context, t *family.Target, disposable bool) error {
	o := InitOptions{Accel: v.Accel, Timeout: v.Timeout, NoWait: !t.HasSession(), Disposable: disposable}
	if err := v.Init(ctx, v.f, []*family.Target{t}, o); err != nil {
		return err
	}
	domains, err := v.daemon.Domains(ctx)
	if err != nil {
		return err
	}
	for _, d := range domains {
		if d.Name == t.FullID() {
			v.running[t.Name] = d
		}
	}
	return nil
}
