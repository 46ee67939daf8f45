package netfilter

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"meros/internal/family"
)

// The world outside of the family's networks, as a proof plays it. RFC 5737 sets
// aside 203.0.113.0/24 for documentation; nobody's policy can mean it.
var internetAddr = netip.MustParseAddr("203.0.113.7")

const (
	uplink      = "mpuplink"
	neighbour   = "mpother" // the bridge of another family
	uplinkMAC   = "52:54:00:ff:00:01"
	outsideMAC  = "52:54:00:ff:00:02"
	otherMAC    = "52:54:00:ff:00:03"
	peerPrefix  = "q" // of a stand-in's end of a port
	otherFamily = "other"
)

// bench is what a proof is run on, as data: it is laid in a namespace of its own
// by runBench.
type bench struct {
	Links   string   // for ip -batch
	Outer   string   // for ip -batch, among the stand-ins
	Peers   []string // devices that the stand-ins get
	Sysctls [][2]string
	Rules   []string // rule sets, in order
	Probes  []probe
}

// scene builds the bench of a compiled policy.
type scene struct {
	rules    Ruleset
	policy   *family.Policy
	lan      netip.Prefix // the uplink's; the host is .2, its neighbour .1
	other    netip.Prefix // the other family's; the host is .1, its guest .2
	bench    bench
	brMACs   map[string]string
	sequence int
}

func newScene(f *family.Family, rules Ruleset) *scene {
	l := &scene{rules: rules, policy: f.Policy, brMACs: map[string]string{}}
	free := l.freeSubnets()
	l.lan, l.other = free[0], free[1]
	return l
}

// freeSubnets returns two private subnets that the family does not use.
func (l *scene) freeSubnets() []netip.Prefix {
	var free []netip.Prefix
	for i := 0; len(free) < 2; i++ {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(213 - i), 0}), 24)
		taken := slices.ContainsFunc(l.policy.Segments, func(s *family.Segment) bool {
			return slices.ContainsFunc(s.Host, p.Overlaps)
		}) || slices.ContainsFunc(l.policy.Ports, func(q *family.Port) bool { return slices.ContainsFunc(q.Addrs, p.Contains) })
		if !taken {
			free = append(free, p)
		}
	}
	return free
}

// at returns an address of a subnet by its last byte.
func at(p netip.Prefix, last byte) netip.Addr {
	b := p.Addr().As4()
	b[3] = last
	return netip.AddrFrom4(b)
}

func (l *scene) lanAddr() netip.Addr   { return at(l.lan, 1) }
func (l *scene) otherAddr() netip.Addr { return at(l.other, 2) }

// links writes the host's side: bridges, ports, uplink, another family.
func (l *scene) links() {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	add("link set lo up")
	for i, s := range l.policy.Segments {
		l.brMACs[s.Bridge] = fmt.Sprintf("52:54:00:fe:00:%02x", i+1)
		add("link add %s address %s type bridge stp_state 0 forward_delay 0", s.Bridge, l.brMACs[s.Bridge])
		for _, h := range s.Host {
			nodad := ""
			if h.Addr().Is6() {
				nodad = " nodad"
			}
			add("addr add %s dev %s%s", h, s.Bridge, nodad)
		}
		add("link set %s up", s.Bridge)
	}
	for _, p := range l.rules.Ports {
		l.port(add, p.Dev, p.Bridge)
	}
	for i, s := range l.policy.Segments {
		l.port(add, unknownDevice(i), s.Bridge)
	}
	l.brMACs[neighbour] = "52:54:00:fe:01:01"
	add("link add %s address %s type bridge stp_state 0 forward_delay 0", neighbour, l.brMACs[neighbour])
	add("addr add %s/24 dev %s", at(l.other, 1), neighbour)
	add("link set %s up", neighbour)
	l.port(add, otherDevice, neighbour)
	add("link add %s address %s type veth peer name %s address %s", uplink, uplinkMAC, peerPrefix+uplink, outsideMAC)
	add("addr add %s/24 dev %s", at(l.lan, 2), uplink)
	add("link set %s up", uplink)
	l.bench.Peers = append(l.bench.Peers, peerPrefix+uplink)
	add("neigh replace %s lladdr %s dev %s nud permanent", l.lanAddr(), outsideMAC, uplink)
	add("neigh replace %s lladdr %s dev %s nud permanent", l.otherAddr(), otherMAC, neighbour)
	add("route add default via %s", l.lanAddr())
	for _, p := range l.rules.Ports {
		for _, a := range p.Addrs {
			add("neigh replace %s lladdr %s dev %s nud permanent", a, p.MAC, p.Bridge)
		}
	}
	l.bench.Links = b.String()
	b.Reset()
	for _, peer := range l.bench.Peers {
		add("link set %s up", peer)
	}
	l.bench.Outer = b.String()
}

// otherDevice is the port of the other family's guest.
var otherDevice = Device(otherFamily+"-guest", 0)

// unknownDevice is a port of a family's bridge that its policy does not know.
func unknownDevice(segment int) string { return Device(otherFamily+"-unknown", segment) }

func (l *scene) port(add func(string, ...any), dev, bridge string) {
	add("link add %s type veth peer name %s", dev, peerPrefix+dev)
	add("link set %s master %s up", dev, bridge)
	l.bench.Peers = append(l.bench.Peers, peerPrefix+dev)
}

// sysctls open the host as wide as they go, so that nothing but the rules is
// what forbids. bridged says whether br_netfilter hands frames to the inet hooks.
func sysctls(bridged bool) [][2]string {
	list := [][2]string{
		{"net/ipv4/ip_forward", "1"},
		{"net/ipv4/conf/all/rp_filter", "0"},
		{"net/ipv4/conf/default/rp_filter", "0"},
		{"net/ipv4/conf/all/send_redirects", "0"},
		{"net/ipv4/conf/default/send_redirects", "0"},
		{"net/ipv4/icmp_ratelimit", "0"},
		{"net/ipv6/conf/all/forwarding", "1"},
		{"net/ipv6/conf/default/accept_dad", "0"},
	}
	value := map[bool]string{true: "1", false: "0"}[bridged]
	for _, what := range []string{"iptables", "ip6tables", "arptables"} {
		list = append(list, [2]string{bridgeNF + what, value})
	}
	return list
}

const bridgeNF = "net/bridge/bridge-nf-call-"

// otherRules are those of a family that allows nothing, as any other.
func (l *scene) otherRules() (Ruleset, error) {
	s := &family.Segment{Network: "other_net", Bridge: neighbour, Host: []netip.Prefix{netip.PrefixFrom(at(l.other, 1), 24)}}
	port := &family.Port{Target: "guest", Segment: s, MAC: otherMAC, Addrs: []netip.Addr{l.otherAddr()}}
	f := &family.Family{Name: otherFamily, Policy: &family.Policy{Segments: []*family.Segment{s}, Ports: []*family.Port{port}}}
	return Compile(f, Host{}, nil)
}

func mac(s string) net.HardwareAddr {
	hw, err := net.ParseMAC(s)
	if err != nil {
		panic("a MAC that the compiler let through: " + s)
	}
	return hw
}
