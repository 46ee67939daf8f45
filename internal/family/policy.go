package family

import (
	"net/netip"
	"slices"
	"strings"
)

// The peers of a policy that are no targets.
const (
	PeerHost     = "host"     // this host, at its addresses on the family's networks
	PeerLAN      = "lan"      // private and link-local ranges and the host's own subnets
	PeerInternet = "internet" // the rest
	PeerFamily   = "family"   // every target; gone once a policy is loaded
)

// The protocols of a policy. ProtoAny is all three of them: nothing else passes.
const (
	ProtoAny  = ""
	ProtoTCP  = "tcp"
	ProtoUDP  = "udp"
	ProtoICMP = "icmp" // echo requests and their answers, of both IP versions
)

// Policy says who may talk to whom: netfilter/policy.xml. What it does not allow
// is forbidden.
type Policy struct {
	File       string       // relative to the root, for words: conf/target/demo/netfilter/policy.xml
	Log        bool         // log what is dropped
	Segments   []*Segment   // by network file name
	Ports      []*Port      // by target, then interface
	Allows     []*Allow     // family spelt out; in the order of the file
	Assertions []*Assertion // netfilter/assert.xml
}

// Segment is a network as the policy sees it.
type Segment struct {
	Network string         // libvirt's name of it
	Bridge  string         // letters, digits, _, - and . only
	Host    []netip.Prefix // the host's addresses on it, with their subnets
	Routed  bool           // whether the host forwards for it: <forward mode="open"/>
}

// Port is an interface of a target.
type Port struct {
	Target string
	Index  int // of the interface in the domain document, from 0
	*Segment
	MAC   string       // aa:bb:cc:dd:ee:ff; "" is the one that meros gives
	Addrs []netip.Addr // at least one: all that it may use
}

// Allow is one thing that is allowed. From and To are targets or peers.
type Allow struct {
	Line    int
	Element int // which <allow> of the file it is of, from 1: family spelt out makes several of one
	From    string
	To      string
	Via     string // "" or the target that is the next hop
	Proto   string
	Ports   []PortRange // destination; none is all
	Log     bool        // log what it lets through
}

// Traffic says in words what is allowed: "tcp 80, 8000-8080", or "all".
func (a *Allow) Traffic() string {
	var ports []string
	for _, r := range a.Ports {
		ports = append(ports, r.String())
	}
	switch {
	case a.Proto == "":
		return "all"
	case ports == nil:
		return a.Proto
	}
	return a.Proto + " " + strings.Join(ports, ", ")
}

// PortRange is from First to Last, both included.
type PortRange struct{ First, Last uint16 }

// Assertion is something that must hold of a policy, whatever it says.
type Assertion struct {
	File   string
	Line   int
	Always bool // else never
	From   string
	To     string
	Via    string // never: but this way; always: this way
	Proto  string
	Ports  []PortRange
}

// PortsOf returns the ports of a target.
func (p *Policy) PortsOf(target string) []*Port {
	var ports []*Port
	for _, port := range p.Ports {
		if port.Target == target {
			ports = append(ports, port)
		}
	}
	return ports
}

// Link is a pair of ports of two targets on one network.
type Link struct{ A, B *Port }

// Links returns the pairs of ports by which two targets are neighbours.
func (p *Policy) Links(a, b string) []Link {
	var links []Link
	for _, pa := range p.PortsOf(a) {
		for _, pb := range p.PortsOf(b) {
			if pa.Segment == pb.Segment {
				links = append(links, Link{pa, pb})
			}
		}
	}
	return links
}

// External reports whether a peer is beyond the host.
func External(peer string) bool { return peer == PeerLAN || peer == PeerInternet }

// IsTarget reports whether a peer is a target.
func IsTarget(peer string) bool {
	return !slices.Contains([]string{PeerHost, PeerLAN, PeerInternet, PeerFamily}, peer)
}

// Covers reports whether all that b allows is allowed by a too.
func (a *Allow) Covers(b *Allow) bool {
	if a.From != b.From || a.To != b.To || a.Via != b.Via || a.Proto != ProtoAny && a.Proto != b.Proto {
		return false
	}
	if len(a.Ports) == 0 {
		return true
	}
	for _, r := range b.Ports {
		if !slices.ContainsFunc(a.Ports, func(o PortRange) bool { return o.First <= r.First && r.Last <= o.Last }) {
			return false
		}
	}
	return len(b.Ports) > 0
}

// Protos returns the protocols of it, spelt out.
func (a *Allow) Protos() []string {
	if a.Proto == ProtoAny {
		return []string{ProtoTCP, ProtoUDP, ProtoICMP}
	}
	return []string{a.Proto}
}
