package netfilter

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"meros/internal/family"
	"meros/internal/prober"
)

// Surroundings are what guests could reach beyond their own family.
type Surroundings struct {
	Host   map[netip.Addr]string // this host's addresses, with their links
	Others []netip.Addr          // of guests of other families
	MACs   map[string]string     // of the family's bridges
}

// planner lists what is to be sent by running guests, as probes does for stand-ins.
type planner struct {
	*scene
	around  Surroundings
	planned []*Planned

	sender string // of what is being listed
	devs   []string
}

// Plan lists, for each pair of a target and a peer, packets that the policy allows and
// packets that it does not. Those of senders only are listed, and the host's own.
func Plan(f *family.Family, rules Ruleset, around Surroundings, senders []string) []*Planned {
	l := newScene(f, rules)
	maps.Copy(l.brMACs, around.MACs)
	l.brMACs[neighbour] = otherMAC // of frames that are left out here
	p := &planner{scene: l, around: around}
	for _, a := range rules.Ports {
		for _, v := range versions {
			p.fromHost(a, v)
		}
	}
	for _, name := range senders {
		p.target(name)
	}
	return p.planned
}

// target lists what one target is to send, by whichever port its own routes choose.
func (p *planner) target(name string) {
	mine := slices.DeleteFunc(slices.Clone(p.rules.Ports), func(a Port) bool { return a.Target != name })
	p.sender, p.devs = name, nil
	for _, a := range mine {
		p.devs = append(p.devs, a.Dev)
	}
	for _, v := range versions {
		at := slices.IndexFunc(mine, func(a Port) bool { return len(v.addrs(a.Addrs)) > 0 })
		if at < 0 {
			p.without(v)
			continue
		}
		p.toTargets(mine, v)
		p.toHost(mine, v)
		p.toWorld(mine, v)
		p.toAll(v)
	}
	for _, a := range mine {
		p.raw(a)
	}
}

// without tries a version of IP that the target has no address of.
func (p *planner) without(v version) {
	for _, t := range []trial{{proto: family.ProtoTCP, port: 80}, {proto: family.ProtoUDP, port: 53}} {
		p.shoot(Planned{Receiver: family.PeerInternet, Words: t.words(v)}, t, p.worldAddr(family.PeerInternet, v))
	}
}

// shoot adds a shot of the target at hand.
func (p *planner) shoot(s Planned, t trial, to netip.Addr) *Planned {
	s.Sender, s.Devs = p.sender, p.devs
	return p.add(s, t, to)
}

func (p *planner) add(s Planned, t trial, to netip.Addr) *Planned {
	p.sequence++
	s.Shot = prober.Shot{ID: p.sequence, Proto: t.proto, To: to, Token: fmt.Sprintf("%s%06d", token, p.sequence)}
	if t.proto != family.ProtoICMP {
		s.Port, s.Source = t.port, uint16(firstSource+p.sequence)
	}
	s.Pass = t.pass
	p.planned = append(p.planned, &s)
	return &s
}

func (p *planner) fromHost(a Port, v version) {
	to := v.addrs(a.Addrs)
	if len(v.hostAddrs(a)) == 0 || len(to) == 0 {
		return
	}
	for _, t := range p.trials(family.PeerHost, a.Target, "") {
		p.add(Planned{Sender: family.PeerHost, Receiver: a.Target, Words: t.words(v), Expect: []string{a.Dev}}, t, to[0])
	}
}

func (p *planner) toTargets(mine []Port, v version) {
	for _, b := range p.rules.Ports {
		to := v.addrs(b.Addrs)
		if b.Target == p.sender || len(to) == 0 {
			continue
		}
		near := slices.ContainsFunc(mine, func(a Port) bool { return a.Segment == b.Segment })
		for _, t := range p.trials(p.sender, b.Target, "") {
			t.pass = t.pass && near
			p.shoot(Planned{Receiver: b.Target, Words: t.words(v), Expect: []string{b.Dev}}, t, to[0])
		}
	}
}

// toHost sends to the host's addresses on the target's networks, and to all its
// others. What the host hears it answers: at the port that it came from.
func (p *planner) toHost(mine []Port, v version) {
	var own []netip.Addr
	for _, a := range mine {
		own = append(own, v.hostAddrs(a)...)
	}
	for _, to := range own {
		for _, t := range p.trials(p.sender, family.PeerHost, "") {
			p.shoot(Planned{Receiver: family.PeerHost, Words: t.words(v), Local: true}, t, to)
		}
	}
	for _, to := range slices.SortedFunc(maps.Keys(p.around.Host), netip.Addr.Compare) {
		if v.arpa(to) && !to.IsLinkLocalUnicast() && !slices.Contains(own, to) {
			p.strangers(v, "the host's address on "+p.around.Host[to], to)
		}
	}
}

// strangers are addresses of whom the policy says nothing.
func (p *planner) strangers(v version, words string, to netip.Addr) {
	for _, t := range []trial{{proto: family.ProtoTCP, port: 22}, {proto: family.ProtoUDP, port: 53}, {proto: family.ProtoICMP}} {
		p.shoot(Planned{Receiver: words, Words: t.words(v), Local: p.around.Host[to] != ""}, t, to)
	}
}

// toWorld sends to lan and internet by the way that the guest's own routes give it:
// a packet is good where any way is allowed.
func (p *planner) toWorld(mine []Port, v version) {
	for _, other := range p.around.Others {
		if v.arpa(other) {
			p.strangers(v, "another family", other)
		}
	}
	ways := map[string][]string{"": nil}
	for _, b := range p.rules.Ports {
		if b.Target != p.sender && slices.ContainsFunc(mine, func(a Port) bool { return a.Segment == b.Segment }) {
			ways[b.Target] = append(ways[b.Target], b.Dev)
		}
	}
	direct := v.ip == "ip" && slices.ContainsFunc(mine, func(a Port) bool { return a.Forwarded() })
	for _, peer := range []string{family.PeerInternet, family.PeerLAN} {
		done := map[trial]*Planned{}
		for _, way := range slices.Sorted(maps.Keys(ways)) {
			for _, t := range p.trials(p.sender, peer, way) {
				pass, key := t.pass && (way != "" || direct), trial{proto: t.proto, port: t.port}
				if done[key] == nil {
					done[key] = p.shoot(Planned{Receiver: peer, Words: t.words(v)}, key, p.worldAddr(peer, v))
				}
				if s := done[key]; pass {
					s.Pass, s.Expect, s.Beyond = true, append(s.Expect, ways[way]...), s.Beyond || way == ""
				}
			}
		}
	}
}

// toAll speaks to all at once.
func (p *planner) toAll(v version) {
	list := map[string]trial{"255.255.255.255": {proto: family.ProtoUDP, port: 67}, "224.0.0.251": {proto: family.ProtoUDP, port: 5353}}
	if v.ip == "ip6" {
		list = map[string]trial{"ff02::1": {proto: family.ProtoICMP}}
	}
	for _, to := range slices.Sorted(maps.Keys(list)) {
		p.shoot(Planned{Receiver: "all (" + to + ")", Words: list[to].words(v)}, list[to], netip.MustParseAddr(to))
	}
}

// raw lists the frames of a proof that may come out nowhere.
func (p *planner) raw(a Port) {
	l := *p.scene
	l.bench.Probes = nil
	l.toWorld(a)
	l.strangers(a)
	l.hostile(a)
	for _, r := range l.bench.Probes {
		if r.Host != nil || r.Expect != "" || r.Send != peerPrefix+a.Dev {
			continue
		}
		p.planned = append(p.planned, &Planned{
			Shot: prober.Shot{ID: r.ID}, Raw: &prober.Raw{ID: r.ID, MAC: a.MAC, Frame: r.Frame},
			Sender: a.Target, Receiver: r.To, Words: r.Words, Devs: p.devs,
		})
	}
	p.sequence = l.sequence
}

// OrderOf puts together what a target's probe is to send. Frames under a neighbour's
// MAC come last: where they get through, the bridge takes the sender for that neighbour
// and keeps from it what would show the other holes.
func OrderOf(planned []*Planned, target string) prober.Order {
	var o prober.Order
	for _, s := range planned {
		switch {
		case s.Sender != target:
		case s.Raw != nil:
			o.Frames = append(o.Frames, *s.Raw)
		default:
			o.Shots = append(o.Shots, s.Shot)
		}
	}
	slices.SortStableFunc(o.Frames, func(a, b prober.Raw) int { return claims(a) - claims(b) })
	return o
}

// claims is 1 for a frame under the MAC of a neighbour, else 0.
func claims(f prober.Raw) int {
	if source := net.HardwareAddr(f.Frame[6:12]).String(); source != f.MAC && source != nobodysMAC {
		return 1
	}
	return 0
}
