package netfilter

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"meros/internal/family"
)

// defaultPort stands for all ports where a rule names none. It is of the range
// that RFC 6335 leaves to nobody.
const defaultPort = 51515

// firstSource is where the source ports of probes begin, one for each.
const firstSource = 20000

// add notes a probe and gives it its tokens. build makes the frame.
func (l *scene) add(p probe, build func(source uint16, token []byte) []byte) {
	l.sequence++
	p.ID = l.sequence
	token := fmt.Appendf(nil, "meros-probe-%06d", p.ID)
	source := uint16(firstSource + p.ID)
	if p.Token == nil {
		p.Token, p.Offset = token, -1
	}
	if p.Host != nil {
		p.Host.Source, p.Host.Token = source, token
		if p.Host.Proto == family.ProtoTCP { // a SYN carries nothing: its ports tell it
			p.Token, p.Offset = ports(source, p.Host.Port), 34
			if p.Host.To.Is6() {
				p.Offset = 54
			}
		}
		if p.Expect != "" && p.Host.Proto != family.ProtoICMP { // of an echo's answer the kernel tells nothing
			p.Answer = fmt.Appendf(nil, "meros-reply-%06d", p.ID)
		}
	} else {
		p.Frame = build(source, token)
		if p.Expect != "" && !p.Own && l.answered(p) {
			p.Answer = fmt.Appendf(nil, "meros-reply-%06d", p.ID)
			// Unless it may be sent all by itself.
			if !l.allowed(p.To, p.From, "", protoName(p.Frame), source+strayBy) {
				p.Unasked = fmt.Appendf(nil, "meros-stray-%06d", p.ID)
			}
			p.Forged, p.Forgers = fmt.Appendf(nil, "meros-forge-%06d", p.ID), l.forgers(p)
		}
	}
	if p.Own && p.Offset < 0 && len(p.Frame) > 23 && isTCP(p.Frame) { // a RST carries nothing either
		p.Token, p.Offset = ports(l4port(p.Frame), source), 34
		if p.Frame[12] == 0x86 {
			p.Offset = 54
		}
	}
	l.bench.Probes = append(l.bench.Probes, p)
}

// forgers are the ports beside the one that asks. Who may answer, may do so by its own
// MAC alone.
func (l *scene) forgers(p probe) []forger {
	var list []forger
	asks := slices.IndexFunc(l.rules.Ports, func(o Port) bool { return p.Send == peerPrefix+o.Dev })
	for _, o := range l.rules.Ports {
		switch {
		case asks < 0 || o.Segment != l.rules.Ports[asks].Segment || o.Dev == l.rules.Ports[asks].Dev:
		case peerPrefix+o.Dev == p.Expect:
			list = append(list, forger{p.Expect, []string{nobodysMAC}})
		default:
			list = append(list, forger{peerPrefix + o.Dev, []string{o.MAC, net.HardwareAddr(p.Frame[:6]).String()}})
		}
	}
	return list
}

// strayBy is how far from the asker's port what was not asked for goes.
const strayBy = 7

func protoName(f []byte) string {
	number := f[23]
	if f[12] == 0x86 {
		number = f[20]
	}
	return map[byte]string{protoTCP: family.ProtoTCP, protoUDP: family.ProtoUDP, protoICMP: family.ProtoICMP, protoICMP6: family.ProtoICMP}[number]
}

func isTCP(f []byte) bool {
	return f[12] == 0x08 && f[23] == protoTCP || f[12] == 0x86 && f[20] == protoTCP
}

func l4port(f []byte) uint16 {
	if f[12] == 0x08 {
		return binary.BigEndian.Uint16(f[36:])
	}
	return binary.BigEndian.Uint16(f[56:])
}

func ports(from, to uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to)
}

// answered reports whether a probe's protocol has answers.
func (l *scene) answered(p probe) bool {
	f := p.Frame
	switch {
	case f[12] == 0x08 && f[13] == 0:
		return f[23] == protoTCP || f[23] == protoUDP || f[23] == protoICMP
	case f[12] == 0x86:
		return f[20] == protoTCP || f[20] == protoUDP || f[20] == protoICMP6 && f[54] == 128
	}
	return false
}

// trial is a packet of a protocol, and whether the policy lets it pass.
type trial struct {
	proto string
	port  uint16
	pass  bool
}

// trials returns for each protocol a packet that the policy allows, if there is
// any, and one that it does not, if there is any.
func (l *scene) trials(from, to, via string) []trial {
	var out []trial
	for _, proto := range []string{family.ProtoTCP, family.ProtoUDP, family.ProtoICMP} {
		for _, a := range l.policy.Allows {
			if a.From == from && a.To == to && a.Via == via && slices.Contains(a.Protos(), proto) {
				out = append(out, trial{proto, firstPort(a.Ports), true})
				if len(a.Ports) > 0 {
					out = append(out, trial{proto, a.Ports[len(a.Ports)-1].Last, true})
				}
			}
		}
		for _, port := range []uint16{defaultPort, 22, 53, 80} {
			if !l.allowed(from, to, via, proto, port) {
				out = append(out, trial{proto, port, false})
			}
		}
	}
	slices.SortFunc(out, func(a, b trial) int { return 2*cmpString(a.proto, b.proto) + sign(int(a.port)-int(b.port)) })
	return slices.CompactFunc(out, func(a, b trial) bool {
		return a.proto == b.proto && (a.port == b.port || a.proto == family.ProtoICMP)
	})
}

func sign(n int) int { return max(-1, min(1, n)) }

func cmpString(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// allowed is the policy's own word on a packet.
func (l *scene) allowed(from, to, via, proto string, port uint16) bool {
	want := &family.Allow{From: from, To: to, Via: via, Proto: proto}
	if proto != family.ProtoICMP {
		want.Ports = []family.PortRange{{First: port, Last: port}}
	}
	return slices.ContainsFunc(l.policy.Allows, func(a *family.Allow) bool { return a.Covers(want) })
}

// packet makes the first packet of a trial.
func packet(t trial, dst, src net.HardwareAddr, from, to netip.Addr) func(uint16, []byte) []byte {
	return func(source uint16, token []byte) []byte {
		return t.frame(dst, src, from, to, source, token).bytes()
	}
}

func (t trial) frame(dst, src net.HardwareAddr, from, to netip.Addr, source uint16, token []byte) frame {
	f := frame{dst: dst, src: src, from: from, to: to}
	switch t.proto {
	case family.ProtoTCP:
		f.proto, f.body = protoTCP, tcp(source, t.port, tcpSYN, token)
	case family.ProtoUDP:
		f.proto, f.body = protoUDP, udp(source, t.port, token)
	default:
		f.proto, f.body = protoICMP, echo(8, source, token)
		if from.Is6() {
			f.proto, f.body = protoICMP6, echo(128, source, token)
		}
	}
	return f
}

func (t trial) words(v version) string {
	if t.proto == family.ProtoICMP {
		return "ping " + v.ip
	}
	return fmt.Sprintf("%s %s %d", v.ip, t.proto, t.port)
}

// probes lists all packets of a proof.
func (l *scene) probes() {
	for _, a := range l.rules.Ports {
		for _, v := range versions {
			for _, b := range l.rules.Ports {
				if a.Target != b.Target {
					l.toTarget(a, b, v)
				}
			}
			l.toHost(a, v)
			l.fromHost(a, v)
		}
		l.toWorld(a)
		l.fromWorld(a)
		l.strangers(a)
		l.unknown(a)
		l.hostile(a)
	}
}

// shared returns one address of each of two ports, of a version; made-up ones of
// a range nobody has where a port has none, so that it is tried all the same.
func (v version) one(addrs []netip.Addr, last byte) (netip.Addr, bool) {
	if own := v.addrs(addrs); len(own) > 0 {
		return own[0], true
	}
	if v.ip == "ip6" {
		b := netip.MustParseAddr("fd00:6d65:726f::").As16()
		b[15] = last
		return netip.AddrFrom16(b), false
	}
	return netip.AddrFrom4([4]byte{172, 31, 255, last}), false
}

// toTarget sends from port to port: on one bridge straight to its MAC, else to
// the host as the next hop.
func (l *scene) toTarget(a, b Port, v version) {
	from, own := v.one(a.Addrs, 2)
	to, there := v.one(b.Addrs, 3)
	near := a.Segment == b.Segment
	next := mac(l.brMACs[a.Bridge])
	if near {
		next = mac(b.MAC)
	}
	for _, t := range l.trials(a.Target, b.Target, "") {
		p := probe{From: a.Target, To: b.Target, Words: t.words(v), Send: peerPrefix + a.Dev}
		if !near {
			p.Words += " through the host"
		}
		if t.pass && near && own && there {
			p.Expect = peerPrefix + b.Dev
		}
		l.add(p, packet(t, next, mac(a.MAC), from, to))
	}
	if !near {
		return
	}
	l.resolving(a, b, v, from, to, own && there)
	l.viaTarget(a, b, v, from, own && there)
	p := probe{From: a.Target, To: b.Target, Words: v.ip + " sctp", Send: peerPrefix + a.Dev}
	l.add(p, func(source uint16, token []byte) []byte {
		return frame{dst: next, src: mac(a.MAC), from: from, to: to, proto: protoSCTP, body: udp(source, defaultPort, token)}.bytes()
	})
}

// related reports whether two targets have anything to say to each other.
func (l *scene) related(a, b string) bool {
	return slices.ContainsFunc(l.policy.Allows, func(r *family.Allow) bool {
		to := r.To
		if r.Via != "" {
			to = r.Via
		}
		return r.From == a && to == b || r.From == b && to == a
	})
}

// resolving asks for a neighbour's MAC.
func (l *scene) resolving(a, b Port, v version, from, to netip.Addr, there bool) {
	p := probe{From: a.Target, To: b.Target, Words: "who has (" + v.ip + ")", Send: peerPrefix + a.Dev}
	if there && l.related(a.Target, b.Target) {
		p.Expect = peerPrefix + b.Dev
	}
	l.add(p, whoHas(a, v, from, to))
	if v.ip == "ip" {
		return
	}
	p.Words = "neighbour advertisement"
	l.add(p, func(_ uint16, token []byte) []byte {
		return frame{dst: mac(b.MAC), src: mac(a.MAC), from: from, to: to, proto: protoICMP6, body: discovery6(136, from, skipped(token))}.bytes()
	})
}

// skipped puts a token into an option of neighbour discovery that nobody knows.
func skipped(token []byte) []byte {
	option := append([]byte{200, byte((len(token) + 2 + 7) / 8)}, token...)
	return append(option, make([]byte, (8-len(option)%8)%8)...)
}

// whoHas asks all on a bridge for an address, by ARP or neighbour discovery.
func whoHas(a Port, v version, from, to netip.Addr) func(uint16, []byte) []byte {
	return func(_ uint16, token []byte) []byte {
		if v.ip == "ip" {
			return ethernet(everybody, mac(a.MAC), etherARP, arp(1, mac(a.MAC), from, to, token))
		}
		group := netip.MustParseAddr("ff02::1:ff00:0").As16()
		last := to.As16()
		copy(group[13:], last[13:])
		dst := net.HardwareAddr{0x33, 0x33, group[12], group[13], group[14], group[15]}
		// The option that names the asker's MAC (RFC 4861, 4.6.1), and one to be skipped.
		option := append(append([]byte{1, 1}, mac(a.MAC)...), skipped(token)...)
		return frame{dst: dst, src: mac(a.MAC), from: from, to: netip.AddrFrom16(group), proto: protoICMP6, body: discovery6(135, to, option)}.bytes()
	}
}

var everybody = net.HardwareAddr{255, 255, 255, 255, 255, 255}

// viaTarget sends to lan and internet with a neighbour as the next hop.
func (l *scene) viaTarget(a, b Port, v version, from netip.Addr, there bool) {
	for _, to := range l.world(v) {
		for _, t := range l.trials(a.Target, to.peer, b.Target) {
			p := probe{From: a.Target, To: to.peer, Words: to.words(t, v) + " via " + b.Target, Send: peerPrefix + a.Dev}
			if t.pass && there {
				p.Expect = peerPrefix + b.Dev
				p.Hop, p.Complaint = v.addrs(b.Addrs)[0].String(), fmt.Appendf(nil, "meros-error-%06d", l.sequence+1)
			}
			l.add(p, packet(t, mac(b.MAC), mac(a.MAC), from, to.addr))
		}
	}
}

// place is an address that stands for lan or internet.
type place struct {
	peer string
	addr netip.Addr
	own  bool // of a subnet that is lan since the host is on it
}

func (w place) words(t trial, v version) string {
	if w.own {
		return t.words(v) + " at " + w.addr.String()
	}
	return t.words(v)
}

// maxOwn bounds how many of the host's own subnets a proof sends to.
const maxOwn = 2

// world lists places of a version. Of the host's own subnets those count that are
// lan for no other reason.
func (l *scene) world(v version) []place {
	list := []place{{peer: family.PeerInternet, addr: l.worldAddr(family.PeerInternet, v)}, {peer: family.PeerLAN, addr: l.worldAddr(family.PeerLAN, v)}}
	own := 0
	for _, subnet := range v.only(l.rules.Lan) {
		addr := subnet.Masked().Addr()
		if !subnet.IsSingleIP() {
			addr = addr.Next()
		}
		if own < maxOwn && (&Oracle{}).peer(addr) == family.PeerInternet {
			own++
			list = append(list, place{family.PeerLAN, addr, true})
		}
	}
	return list
}

func (l *scene) worldAddr(peer string, v version) netip.Addr {
	switch {
	case v.ip == "ip6" && peer == family.PeerInternet:
		return netip.MustParseAddr("2606:4700::1")
	case v.ip == "ip6":
		return netip.MustParseAddr("fd00:1a4::1")
	case peer == family.PeerInternet:
		return internetAddr
	}
	return l.lanAddr()
}
