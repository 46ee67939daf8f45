package netfilter

import (
	"fmt"
	"net/netip"
	"slices"

	"meros/internal/capture"
	"meros/internal/family"
)

// Oracle judges frames by what a policy says, one at a time. It knows nothing of the
// rules that were made of the policy, nor of connections: a frame that may belong to
// what is allowed, in either direction, is explained.
type Oracle struct {
	policy *family.Policy
	ports  map[string]Port // by device
	macs   map[string]Port
	addrs  map[netip.Addr]Port
	host   map[netip.Addr]string // this host's addresses, with their links
	lan    []netip.Prefix        // the host's own subnets
	own    []netip.Prefix        // of the family's networks
	inner  []netip.Prefix        // of others' guests on this host
}

// NewOracle judges by the policy of f, whose ports are those of rules.
func NewOracle(f *family.Family, rules Ruleset, host Host, addrs map[netip.Addr]string) *Oracle {
	o := &Oracle{
		policy: f.Policy, ports: map[string]Port{}, macs: map[string]Port{}, addrs: map[netip.Addr]Port{},
		host: addrs, lan: host.Subnets, inner: host.Inner,
	}
	for _, p := range rules.Ports {
		o.ports[p.Dev], o.macs[p.MAC] = p, p
		for _, a := range p.Addrs {
			o.addrs[a] = p
		}
	}
	for _, s := range f.Policy.Segments {
		for _, h := range s.Host {
			o.own = append(o.own, h.Masked())
		}
	}
	return o
}

// peer is who has an address; "" is nobody whom a policy could mean.
func (o *Oracle) peer(a netip.Addr) string {
	if p, ok := o.addrs[a]; ok {
		return p.Target
	}
	if _, ok := o.host[a]; ok {
		return family.PeerHost
	}
	in := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	for _, v := range versions {
		switch {
		case !v.arpa(a):
		case in(o.own), in(o.inner), a.IsMulticast(), a.IsUnspecified(), a.IsLoopback():
			return ""
		case in(v.lan), in(o.lan):
			return family.PeerLAN
		case in(v.special), v.world != "" && !netip.MustParsePrefix(v.world).Contains(a):
			return ""
		default:
			return family.PeerInternet
		}
	}
	return ""
}

var protoWords = map[byte]string{capture.TCP: family.ProtoTCP, capture.UDP: family.ProtoUDP, capture.ICMP: family.ProtoICMP, capture.ICMPv6: family.ProtoICMP}

// permits reports whether a packet between two peers belongs to what is allowed:
// begins it, goes on with it, or answers.
func (o *Oracle) permits(from, to, via string, p *capture.Packet) bool {
	covers := func(from, to, proto string, port uint16) bool {
		want := &family.Allow{From: from, To: to, Via: via, Proto: proto}
		if proto != family.ProtoICMP {
			want.Ports = []family.PortRange{{First: port, Last: port}}
		}
		return slices.ContainsFunc(o.policy.Allows, func(a *family.Allow) bool { return a.Covers(want) })
	}
	switch {
	case !p.Whole && p.Fragment: // a later part, which has no ports
		return slices.ContainsFunc(o.policy.Allows, func(a *family.Allow) bool {
			ahead, back := a.From == from && a.To == to, a.From == to && a.To == from
			return (ahead || back) && a.Via == via && slices.Contains(a.Protos(), protoWords[p.Proto])
		})
	case !p.Whole:
		return false
	case p.IsEcho():
		if p.IsEchoReply() {
			from, to = to, from
		}
		return covers(from, to, family.ProtoICMP, 0)
	case p.Proto == capture.TCP:
		begins := p.Flags&(capture.SYN|capture.ACK) == capture.SYN
		return covers(from, to, family.ProtoTCP, p.DestPort) || !begins && covers(to, from, family.ProtoTCP, p.SourcePort)
	case p.Proto == capture.UDP:
		return covers(from, to, family.ProtoUDP, p.DestPort) || covers(to, from, family.ProtoUDP, p.SourcePort)
	}
	return false
}

// Judge says why a frame may not be where it is, "" if it may. senders are the
// targets that the same packet came from, where that cannot be seen of it.
func (o *Oracle) Judge(f capture.Frame, senders ...string) string {
	if !f.Out || f.Link == "lo" {
		return ""
	}
	if port, ours := o.ports[f.Link]; ours {
		return o.atPort(f, port)
	}
	return o.elsewhere(f, senders)
}

// atPort judges what a target is handed.
func (o *Oracle) atPort(f capture.Frame, port Port) string {
	sender, fromGuest := o.macs[f.Source.String()]
	if fromGuest && sender.Segment != port.Segment {
		return "it comes from another network"
	}
	switch {
	case f.VLAN:
		return "it has a VLAN tag"
	case f.Ether == capture.EtherARP:
		return o.finds(f, port, sender, f.To)
	case !f.From.IsValid():
		return "it is neither IP nor ARP"
	case f.IsDiscovery():
		if f.Type != capture.Solicit6 && f.Type != capture.Advert6 {
			return "no guest is told of routers"
		}
		to := f.To
		if f.Type == capture.Solicit6 {
			to = f.Subject
		}
		return o.finds(f, port, sender, to)
	case fromGuest && (f.Fragment || f.Options):
		return "guests send no fragments and options"
	case f.IsError():
		return o.complaint(f, port)
	}
	return o.arrives(f, port, sender, fromGuest)
}

// finds judges ARP and neighbour discovery about an address of a port.
func (o *Oracle) finds(f capture.Frame, port, sender Port, about netip.Addr) string {
	switch {
	case !slices.Contains(port.Addrs, about):
		return fmt.Sprintf("%s has not the address %s that it is about", port.Target, about)
	case sender.Port == nil:
		if !(&compiler{policy: o.policy}).meetsHost(port) {
			return fmt.Sprintf("the host and %s have nothing to say to each other", port.Target)
		}
	case !(&scene{policy: o.policy}).related(sender.Target, port.Target):
		return fmt.Sprintf("%s and %s have nothing to say to each other", sender.Target, port.Target)
	case f.Ether == capture.EtherARP && (!slices.Contains(sender.Addrs, f.From) || f.Hardware != sender.MAC):
		return fmt.Sprintf("it speaks of an address that is not %s's", sender.Target)
	}
	return ""
}

// arrives judges a packet for a target, or for what lies beyond it.
func (o *Oracle) arrives(f capture.Frame, port, sender Port, fromGuest bool) string {
	from, to, via := o.peer(f.From), o.peer(f.To), ""
	switch {
	case fromGuest && slices.Contains(sender.Addrs, f.From):
	case fromGuest && family.External(from):
		via = sender.Target
	case fromGuest:
		return fmt.Sprintf("%s has not the address %s", sender.Target, f.From)
	case from == family.PeerHost:
		if !slices.ContainsFunc(port.Host, func(h netip.Prefix) bool { return h.Addr() == f.From }) {
			return fmt.Sprintf("it is of the host's address on %s", o.host[f.From])
		}
	case !family.External(from) || !port.Forwarded():
		return fmt.Sprintf("nothing of %s comes to %s by way of the host", f.From, port.Target)
	}
	if !slices.Contains(port.Addrs, f.To) {
		if !fromGuest || via != "" || !family.External(to) {
			return fmt.Sprintf("%s has not the address %s", port.Target, f.To)
		}
		via = port.Target
	}
	if !o.permits(from, to, via, &f.Packet) {
		return notAllowed(from, to, via)
	}
	return ""
}

func notAllowed(from, to, via string) string {
	if to == "" {
		to = "nobody's address"
	}
	words := fmt.Sprintf("the policy allows no such packet from %s to %s", from, to)
	if via != "" {
		words += " via " + via
	}
	return words
}

// complaint judges an ICMP error: what it is about has to be the target's own, and
// allowed.
func (o *Oracle) complaint(f capture.Frame, port Port) string {
	if f.About == nil || !slices.Contains(port.Addrs, f.About.From) {
		return fmt.Sprintf("it is about nothing that %s has sent", port.Target)
	}
	if !o.permitsAnyway(port.Target, o.peer(f.About.To), f.About) {
		return "it is about a packet that the policy does not allow: whoever complains has received it"
	}
	return ""
}

func (o *Oracle) permitsAnyway(from, to string, p *capture.Packet) bool {
	return o.permits(from, to, "", p) || slices.ContainsFunc(o.policy.Allows, func(a *family.Allow) bool {
		return a.Via != "" && o.permits(from, to, a.Via, p)
	})
}

// elsewhere judges what leaves by a link that is not the family's.
func (o *Oracle) elsewhere(f capture.Frame, senders []string) string {
	if sender, bridged := o.macs[f.Source.String()]; bridged {
		return fmt.Sprintf("it has the MAC of %s, which is on no such link", sender.Target)
	}
	if !f.From.IsValid() {
		return ""
	}
	if sender, plain := o.addrs[f.From]; plain {
		senders = []string{sender.Target}
	}
	if len(senders) == 0 {
		return "" // the host's own
	}
	to, p := o.peer(f.To), &f.Packet
	for _, from := range senders {
		forwarded := slices.ContainsFunc(o.policy.PortsOf(from), (*family.Port).Forwarded)
		if f.IsError() && f.About != nil && forwarded && family.External(to) && o.permits(to, from, "", f.About) {
			return ""
		}
		if forwarded && family.External(to) && o.permits(from, to, "", p) {
			return ""
		}
	}
	return notAllowed(senders[0], to, "")
}
