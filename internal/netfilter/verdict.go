package netfilter

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"meros/internal/family"
	"meros/internal/prober"
)

// Leak is a packet that was seen where the policy does not let it be.
type Leak struct {
	Phase  string    `json:"phase"`
	Link   string    `json:"link"`  // of this host, by which it went
	Where  string    `json:"where"` // the same in words: "guest's port on mos_sec_in"
	From   string    `json:"from"`  // the target it is of, if that is known
	Packet string    `json:"packet"`
	Why    string    `json:"why"`
	Frame  string    `json:"frame"` // its first bytes, in hex
	First  time.Time `json:"first"`
	Count  int       `json:"count"` // of its like

	kind kind
}

// kind is what leaks have in common of which one is shown.
type kind struct {
	phase, link, why string
	ether            uint16
	proto, icmp      byte
	from, to         netip.Addr
	port             uint16
}

// Planned is a shot with what is to become of it.
type Planned struct {
	prober.Shot
	Raw      *prober.Raw // instead of it, a frame as it stands
	Sender   string      // target or host
	Receiver string      // target, peer, or in words
	Words    string      // what it is
	Devs     []string    // of its sender: the host's ends of its ports; none for the host
	Pass     bool        // whether the policy allows it
	Expect   []string    // the ports that it has to come out of
	Beyond   bool        // or any link that is not the family's
	Local    bool        // or the host itself, which answers by the port that it came from

	sent, arrived, answered, back bool
	said                          prober.Said
}

// Missed is something allowed that did not work, or that its guest did not send.
type Missed struct {
	Phase string `json:"phase"`
	From  string `json:"from"`
	To    string `json:"to"`
	What  string `json:"what"`
	Why   string `json:"why"`

	// Unsent: it was not seen to leave the guest, whose own rules may not let it. The
	// host's rules were not tried by it, for better or worse.
	Unsent bool `json:"unsent,omitempty"`
}

// Tally is what became of the shots of a phase.
type Tally struct {
	Phase     string `json:"phase"`
	Allowed   int    `json:"allowed"`   // that the policy lets pass
	Untried   int    `json:"untried"`   // that it lets pass, and that the guest's user may not send
	Arrived   int    `json:"arrived"`   // of those
	Forbidden int    `json:"forbidden"` // that it does not, and that were seen to be sent
	Unsent    int    `json:"unsent"`    // of the forbidden: not seen to be sent, so that they show nothing
}

// Behind reports whether frames have passed that were not looked at yet.
func (w *Watch) Behind() bool { return w.socket.Behind() }

// Settled reports whether all that has passed was seen and all that is allowed has
// arrived, so that nothing is to be waited for.
func (w *Watch) Settled() bool {
	if w.Behind() {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.shots {
		if s.Pass && !s.barred() && s.trouble() != "" {
			return false
		}
	}
	return true
}

// trouble says why something allowed did not work.
func (p *Planned) trouble() string {
	switch {
	case p.unsent() && p.said.Outcome == prober.Unsent:
		return "the guest could not send it: " + p.said.Why
	case p.unsent():
		return "the guest was not seen to send it"
	case !p.arrived:
		return "it did not arrive"
	case p.answered && !p.back && len(p.Devs) > 0:
		return "its answer did not get back"
	}
	return ""
}

func (p *Planned) unsent() bool { return p.Sender != family.PeerHost && !p.sent }

// barred reports whether the guest says that its user may not send this.
func (p *Planned) barred() bool { return !p.sent && p.said.Outcome == prober.Barred }

// Judge says what became of the shots. A guest of which no packet was seen has shown
// nothing, whatever it says.
func (w *Watch) Judge() (Tally, []Missed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t, missed := Tally{Phase: w.phase}, []Missed{}
	sent := map[string]bool{family.PeerHost: true}
	for _, id := range slices.Sorted(maps.Keys(w.shots)) {
		s := w.shots[id]
		sent[s.Sender] = sent[s.Sender] || s.sent
		switch {
		case !s.Pass && s.sent:
			t.Forbidden++
		case !s.Pass:
			t.Unsent++
		case s.barred():
			t.Untried++
		default:
			t.Allowed++
			if why := s.trouble(); why != "" {
				missed = append(missed, Missed{w.phase, s.Sender, s.Receiver, s.Words, why, s.unsent()})
			} else {
				t.Arrived++
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(sent)) {
		if !sent[name] {
			missed = append(missed, Missed{w.phase, name, "all", "any packet", "the guest was not seen to send anything: nothing of it is verified", true})
		}
	}
	return t, missed
}

// Leaks returns what was found so far, and how many kinds more than are kept.
func (w *Watch) Leaks() ([]Leak, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := []Leak{}
	for _, l := range w.leaks {
		list = append(list, *l)
	}
	return list, w.more
}

// Packets is how many passed the family's ports.
func (w *Watch) Packets() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.packets
}
