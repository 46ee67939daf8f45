package lifecycle

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"meros/internal/family"
	"meros/internal/netfilter"
	"meros/internal/prober"
	"meros/internal/session"
	"meros/internal/ui"
)

// sender is a guest that is given a probe.
type sender struct {
	*verifier
	target *family.Target
	name   string // of the probe in the user's home
	placed bool
	noRoot bool
}

func newSender(v *verifier, t *family.Target) *sender {
	return &sender{verifier: v, target: t, name: ".meros-probe-" + rand.Text()}
}

func (v *verifier) senderOf(t *family.Target) *sender {
	for _, s := range v.senders {
		if s.target == t {
			return s
		}
	}
	return nil
}

// there are the senders that run.
func (v *verifier) there() []*sender {
	return slices.DeleteFunc(slices.Clone(v.senders), func(s *sender) bool {
		_, runs := v.running[s.target.Name]
		return !runs
	})
}

const (
	// endTime is how long probes may take to end once they are told to.
	endTime = 5 * time.Second
	// answerTime is how long a guest may take for a small command.
	answerTime = 15 * time.Second
	// arrivalTime is how long what is allowed may take to arrive once it was sent.
	arrivalTime = 20 * time.Second
	// roundPause is how long probes rest between two rounds.
	roundPause = 200 * time.Millisecond
	// firstRound is how long a guest may take for its first round: an emulated one
	// needs seconds.
	firstRound = 2 * time.Minute
	// lastWords is how much of a failing probe's complaints is kept.
	lastWords = 4 << 10
)

// tail keeps the end of what is written to it.
type tail struct{ bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	_, _ = t.Buffer.Write(p)
	if over := t.Len() - lastWords; over > 0 {
		t.Next(over)
	}
	return len(p), nil
}

// shell runs a small script of ours in the guest.
func (s *sender) shell(ctx context.Context, in io.Reader, script string) (string, error) {
	c, err := session.Dial(ctx, s.Paths, s.target)
	if err != nil {
		return "", err
	}
	defer c.Close()
	var out, errs tail
	err = session.Exec(ctx, c, &ui.Streams{In: in, Out: &out, Err: &errs}, []string{"sh", "-c", script, "meros", s.name}, session.ExecOptions{})
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, ui.Clean(firstWord(errs.String())))
	}
	return out.String(), nil
}

// boot returns what tells this boot of the guest from others.
func (s *sender) boot(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	out, err := s.shell(ctx, nil, "cat "+bootID)
	return firstWord(out), err
}

// place puts the probe into the guest.
func (s *sender) place(ctx context.Context) error {
	if s.placed {
		return nil
	}
	program, err := os.Open("/proc/self/exe") // this program
	if err != nil {
		return err
	}
	defer program.Close()
	if _, err := s.shell(ctx, program, `umask 077 && cat >"$1" && chmod 700 "$1"`); err != nil {
		return fmt.Errorf("%s: give it the probe: %w", s.target.FullID(), err)
	}
	s.placed = true
	return nil
}

// tidy takes the probes out of the guests again.
func (v *verifier) tidy(ctx context.Context) {
	for _, s := range v.senders {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTime)
		if s.placed {
			if _, err := s.shell(ctx, nil, `rm -f "$1"`); err != nil {
				v.Warn("%s: %s is left in its user's home: %v", s.target.FullID(), s.name, err)
			}
		}
		cancel()
	}
}

// probe runs the probe until it has carried out its order. said is told of each line.
func (s *sender) probe(ctx context.Context, o prober.Order, in io.Reader, said func(prober.Said)) error {
	c, err := session.Dial(ctx, s.Paths, s.target)
	if err != nil {
		return err
	}
	defer c.Close()
	r, w := io.Pipe()
	heard := make(chan error, 1)
	go func() {
		err := prober.Listen(r, o, said)
		_ = r.CloseWithError(errors.Join(err, io.ErrClosedPipe)) // ends a probe that nobody listens to
		heard <- err
	}()
	var errs tail
	err = session.Exec(ctx, c, &ui.Streams{In: in, Out: w, Err: &errs}, []string{"./" + s.name, prober.Name}, session.ExecOptions{})
	_ = w.Close()
	if lie := <-heard; lie != nil {
		return fmt.Errorf("%s: %w", s.target.FullID(), lie)
	}
	if err != nil {
		return fmt.Errorf("%s: its probe: %w: %s", s.target.FullID(), err, ui.Clean(firstWord(errs.String())))
	}
	return nil
}

// fleet is the probes of all senders at work.
type fleet struct {
	all    sync.WaitGroup
	cancel context.CancelFunc
	names  []string        // of the senders' targets
	faults []error         // of each
	rounds []chan struct{} // closed after a sender's first round
	inputs []*io.PipeWriter
}

// launch starts all probes. With every, they go on until they are recalled.
func (v *verifier) launch(ctx context.Context, planned []*netfilter.Planned, every time.Duration) (*fleet, error) {
	senders := v.there()
	for _, s := range senders {
		if err := s.place(ctx); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	l := &fleet{cancel: cancel, faults: make([]error, len(senders))}
	for i, s := range senders {
		l.names = append(l.names, s.target.Name)
		o := netfilter.OrderOf(planned, s.target.Name)
		o.Every = every
		order, err := json.Marshal(o)
		if err != nil {
			return nil, err
		}
		in, feed := io.Pipe()
		first := make(chan struct{})
		l.inputs, l.rounds = append(l.inputs, feed), append(l.rounds, first)
		go func() {
			_, _ = feed.Write(order)
			if every == 0 {
				_ = feed.Close()
			}
		}()
		l.all.Go(func() {
			var once sync.Once
			l.faults[i] = s.probe(ctx, o, in, func(said prober.Said) {
				if said.Round > 0 {
					once.Do(func() { close(first) })
				}
				s.hear(said)
			})
			once.Do(func() { close(first) })
			_ = in.Close()
		})
	}
	return l, nil
}

func (s *sender) hear(said prober.Said) {
	if said.ID == 0 && said.Round == 0 && !said.Root && !s.noRoot {
		s.noRoot = true
	}
	s.watch.Said(said)
}

// recall ends the probes, and returns what was wrong with those of other targets than
// spared, whose guest something was done to.
func (l *fleet) recall(spared *family.Target) error {
	for _, in := range l.inputs {
		_ = in.Close()
	}
	timer := time.AfterFunc(endTime, l.cancel)
	l.all.Wait()
	timer.Stop()
	l.cancel()
	var faults []error
	for i, name := range l.names {
		if spared == nil || name != spared.Name {
			faults = append(faults, l.faults[i])
		}
	}
	return errors.Join(faults...)
}

// volley has everything sent once, and judges it.
func (v *verifier) volley(ctx context.Context, name string) error {
	v.Step("verifying %s: %s", v.f.Name, name)
	planned := v.plan()
	v.watch.Begin(name)
	v.watch.Plan(planned)
	defer v.watch.Listen(planned)()
	l, err := v.launch(ctx, planned, 0)
	if err != nil {
		return err
	}
	v.watch.Fire(ctx, planned)
	l.all.Wait()
	if err := l.recall(nil); err != nil {
		return err
	}
	for deadline := time.Now().Add(arrivalTime); !v.watch.Settled() && time.Now().Before(deadline); {
		if err := pause(ctx, pollEvery); err != nil {
			return err
		}
	}
	if err := pause(ctx, pollEvery); err != nil { // what is forbidden may come late too
		return err
	}
	if name == firstPhase {
		for _, s := range v.senders {
			if s.noRoot {
				v.note("%s: its user is not root: frames with spoofed addresses were not sent; `meros prove` sends them", s.target.FullID())
			}
		}
	}
	tally, missed := v.watch.Judge()
	v.out.Phases = append(v.out.Phases, tally)
	for _, m := range missed {
		if m.Unsent {
			v.untried("%s, %s to %s, %s: %s", m.Phase, m.From, m.To, m.What, m.Why)
			continue
		}
		v.out.Missed = append(v.out.Missed, m)
	}
	return nil
}

// during has everything sent again and again while act is done, to t if that is set.
// What is allowed may fail meanwhile; what is not may not pass.
func (v *verifier) during(ctx context.Context, t *family.Target, what string, act func(context.Context) error) (err error) {
	name := "while " + what
	if t != nil {
		name = "while " + t.Name + " " + what
	}
	v.Step("verifying %s: %s", v.f.Name, name)
	// The host's own are sent once, and not here.
	planned := slices.DeleteFunc(v.plan(), func(p *netfilter.Planned) bool { return p.Sender == family.PeerHost })
	v.watch.Begin(name)
	v.watch.Plan(planned)
	defer v.watch.Listen(planned)()
	l, err := v.launch(ctx, planned, roundPause)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.recall(t)) }()
	timer := time.After(firstRound)
	for _, first := range l.rounds {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-first:
		case <-timer:
			return errors.New("the guests' probes take too long")
		}
	}
	if err := act(ctx); err != nil {
		return err
	}
	if err := pause(ctx, 2*roundPause); err != nil {
		return err
	}
	for deadline := time.Now().Add(arrivalTime); v.watch.Behind() && time.Now().Before(deadline); {
		if err := pause(ctx, pollEvery); err != nil {
			return err
		}
	}
	tally, _ := v.watch.Judge()
	tally.Allowed, tally.Arrived = 0, 0
	v.out.Phases = append(v.out.Phases, tally)
	return nil
}

// bootID is a word that differs from boot to boot: random(4).
const bootID = "/proc/sys/kernel/random/boot_id"

func firstWord(s string) string {
	word, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return word
}
