package netfilter

import (
	"fmt"
	"strings"

	"meros/internal/family"
)

// Cell is who may reach whom, and how. No words: nothing is allowed.
type Cell struct {
	From  string   `json:"from"`
	To    string   `json:"to"`
	Allow []string `json:"allow"` // such as "tcp 22,80 via firewall (line 4)"
}

// Matrix returns every ordered pair of a target and a peer.
func Matrix(f *family.Family) []Cell {
	var peers []string
	for _, t := range f.Targets {
		peers = append(peers, t.Name)
	}
	peers = append(peers, family.PeerHost, family.PeerLAN, family.PeerInternet)
	var cells []Cell
	for _, from := range peers {
		for _, to := range peers {
			if from == to || !family.IsTarget(from) && !family.IsTarget(to) {
				continue
			}
			cell := Cell{From: from, To: to, Allow: []string{}}
			for _, a := range f.Policy.Allows {
				if a.From == from && a.To == to {
					cell.Allow = append(cell.Allow, Words(a))
				}
			}
			cells = append(cells, cell)
		}
	}
	return cells
}

// Words puts what a rule allows in words.
func Words(a *family.Allow) string {
	words := strings.Join(a.Protos(), ", ")
	if len(a.Ports) > 0 {
		words += " " + portWords(a.Ports)
	}
	if a.Via != "" {
		words += " via " + a.Via
	}
	return fmt.Sprintf("%s (line %d)", words, a.Line)
}

func portWords(ranges []family.PortRange) string {
	var words []string
	for _, r := range ranges {
		words = append(words, r.String())
	}
	return strings.Join(words, ",")
}

// Verdict is what came of an assertion.
type Verdict struct {
	Where  string `json:"where"` // file:line
	Words  string `json:"words"`
	Holds  bool   `json:"holds"`
	Packet string `json:"packet,omitempty"` // one that shows that it does not
	Rule   string `json:"rule,omitempty"`   // what lets that through, or why nothing does
}

// Assess judges the assertions of a policy by what it says.
func Assess(f *family.Family) []Verdict {
	var out []Verdict
	for _, a := range f.Policy.Assertions {
		v := Verdict{Where: fmt.Sprintf("%s:%d", a.File, a.Line), Words: assertionWords(a), Holds: true}
		for _, from := range spell(f, a.From) {
			for _, to := range spell(f, a.To) {
				if from != to && v.Holds {
					assess(f, a, from, to, &v)
				}
			}
		}
		out = append(out, v)
	}
	return out
}

func spell(f *family.Family, peer string) []string {
	if peer != family.PeerFamily {
		return []string{peer}
	}
	var names []string
	for _, t := range f.Targets {
		names = append(names, t.Name)
	}
	return names
}

func assertionWords(a *family.Assertion) string {
	kind, way := "never", " unless via "
	if a.Always {
		kind, way = "always", " via "
	}
	words := fmt.Sprintf("%s from %s to %s", kind, a.From, a.To)
	if a.Via != "" {
		words += way + a.Via
	}
	if a.Proto != "" {
		words += ", " + a.Proto
	}
	if len(a.Ports) > 0 {
		words += " " + portWords(a.Ports)
	}
	return words
}

func assess(f *family.Family, a *family.Assertion, from, to string, v *Verdict) {
	want := &family.Allow{From: from, To: to, Via: a.Via, Proto: a.Proto, Ports: a.Ports}
	for _, rule := range f.Policy.Allows {
		if rule.From != from || rule.To != to {
			continue
		}
		if a.Always {
			if rule.Covers(want) {
				return
			}
			continue
		}
		if a.Via != "" && rule.Via == a.Via {
			continue
		}
		if proto, port, meet := common(rule, want); meet {
			v.Holds = false
			v.Packet = packetWords(f, rule, proto, port)
			v.Rule = fmt.Sprintf("%s:%d: allow from %s to %s: %s", f.Policy.File, rule.Line, from, to, Words(rule))
			return
		}
	}
	if a.Always {
		v.Holds = false
		v.Packet = packetWords(f, want, want.Protos()[0], firstPort(want.Ports))
		v.Rule = "no one rule allows all of it"
	}
}

func firstPort(ranges []family.PortRange) uint16 {
	if len(ranges) == 0 {
		return defaultPort
	}
	return ranges[0].First
}

// common returns a protocol and port that both rules speak of.
func common(a, b *family.Allow) (proto string, port uint16, ok bool) {
	for _, p := range a.Protos() {
		for _, q := range b.Protos() {
			if p != q {
				continue
			}
			if p == family.ProtoICMP || len(a.Ports) == 0 {
				return p, firstPort(b.Ports), true
			}
			for _, r := range a.Ports {
				if len(b.Ports) == 0 {
					return p, r.First, true
				}
				for _, s := range b.Ports {
					if first := max(r.First, s.First); first <= min(r.Last, s.Last) {
						return p, first, true
					}
				}
			}
		}
	}
	return "", 0, false
}

// packetWords describes a packet as tcpdump would.
func packetWords(f *family.Family, a *family.Allow, proto string, port uint16) string {
	from, to := addressOf(f, a.From, a.To), addressOf(f, a.To, a.From)
	words := fmt.Sprintf("%s %s:40000 > %s:%d", proto, from, to, port)
	if proto == family.ProtoICMP {
		words = fmt.Sprintf("icmp echo request %s > %s", from, to)
	}
	if a.Via != "" {
		words += ", next hop " + a.Via
	}
	return words
}

// addressOf is an address of a peer, as other sees it.
func addressOf(f *family.Family, peer, other string) string {
	p := f.Policy
	switch {
	case peer == family.PeerInternet:
		return internetAddr.String()
	case peer == family.PeerLAN:
		return "192.168.0.1"
	case peer == family.PeerHost:
		for _, port := range p.PortsOf(other) {
			if len(port.Host) > 0 {
				return port.Host[0].Addr().String()
			}
		}
		return "the host"
	}
	if links := p.Links(peer, other); len(links) > 0 {
		return links[0].A.Addrs[0].String()
	}
	if ports := p.PortsOf(peer); len(ports) > 0 {
		return ports[0].Addrs[0].String()
	}
	return peer
}
