package netfilter

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"meros/internal/family"
)

// toHost sends to the host's address on the port's network, and to its others.
func (l *scene) toHost(a Port, v version) {
	from, own := v.one(a.Addrs, 2)
	next := mac(l.brMACs[a.Bridge])
	host, there := v.one(v.hostAddrs(a), 1)
	for _, t := range l.trials(a.Target, family.PeerHost, "") {
		p := probe{From: a.Target, To: family.PeerHost, Words: t.words(v), Send: peerPrefix + a.Dev, Own: true}
		if t.pass && own && there {
			p.Expect = p.Send
		}
		p.Offset = -1
		l.add(p, packet(t, next, mac(a.MAC), from, host))
	}
	if own && there {
		l.whoHasHost(a, v, from, host)
	}
	for _, other := range l.hostElsewhere(a, v) {
		for _, proto := range []string{family.ProtoTCP, family.ProtoUDP, family.ProtoICMP} {
			p := probe{From: a.Target, To: family.PeerHost, Words: proto + " to its address " + other.String(), Send: peerPrefix + a.Dev, Own: true, Offset: -1}
			l.add(p, packet(trial{proto: proto, port: 22}, next, mac(a.MAC), from, other))
		}
	}
}

// hostElsewhere are addresses of the host that a guest has no business with, however
// they are written.
func (l *scene) hostElsewhere(a Port, v version) []netip.Addr {
	others := []netip.Addr{at(l.lan, 2), at(l.other, 1), netip.MustParseAddr("127.0.0.1")}
	if v.ip == "ip6" {
		others = []netip.Addr{netip.MustParseAddr("::1"), netip.MustParseAddr("::ffff:127.0.0.1"), linkLocal(mac(l.brMACs[a.Bridge]))}
		for _, addr := range []netip.Addr{at(l.lan, 2), at(l.other, 1)} {
			others = append(others, netip.AddrFrom16(addr.As16())) // ::ffff:a.b.c.d
		}
	}
	for _, s := range l.policy.Segments {
		for _, h := range s.Host {
			if s != a.Segment && v.arpa(h.Addr()) {
				others = append(others, h.Addr())
			}
		}
	}
	return others
}

// linkLocal is the address that a link gives itself: RFC 4291, appendix A.
func linkLocal(hw net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: hw[0] ^ 2, 9: hw[1], 10: hw[2], 11: 0xff, 12: 0xfe, 13: hw[3], 14: hw[4], 15: hw[5]})
}

// whoHasHost asks for the host's MAC, whose answer shows that it was heard.
func (l *scene) whoHasHost(a Port, v version, from, host netip.Addr) {
	p := probe{From: a.Target, To: family.PeerHost, Words: "who has (" + v.ip + ")", Send: peerPrefix + a.Dev, Own: true, Offset: 20}
	p.Token = append([]byte{0, 2}, mac(l.brMACs[a.Bridge])...)
	p.Token = append(append(append(p.Token, host.AsSlice()...), mac(a.MAC)...), from.AsSlice()...)
	if v.ip == "ip6" {
		p.Token, p.Offset = append(from.AsSlice(), 136, 0), 38 // an advertisement, to who asked
	}
	c := compiler{policy: l.policy}
	if c.meetsHost(a) {
		p.Expect = p.Send
	}
	l.add(p, whoHas(a, v, from, host))
}

// fromHost has the host itself send.
func (l *scene) fromHost(a Port, v version) {
	to, own := v.one(a.Addrs, 2)
	host, there := v.one(v.hostAddrs(a), 1)
	if !own || !there {
		return
	}
	for _, t := range l.trials(family.PeerHost, a.Target, "") {
		p := probe{From: family.PeerHost, To: a.Target, Words: t.words(v), Host: &hostSend{Proto: t.proto, From: host, To: to, Port: t.port}}
		if t.pass {
			p.Expect = peerPrefix + a.Dev
		}
		l.add(p, nil)
	}
}

// toWorld sends to lan, internet and another family, with the host as next hop.
func (l *scene) toWorld(a Port) {
	v := versions[0]
	from, own := v.one(a.Addrs, 2)
	next := mac(l.brMACs[a.Bridge])
	for _, peer := range []string{family.PeerInternet, family.PeerLAN} {
		for _, t := range l.trials(a.Target, peer, "") {
			p := probe{From: a.Target, To: peer, Words: t.words(v), Send: peerPrefix + a.Dev}
			if t.pass && own && a.Forwarded() {
				p.Expect = peerPrefix + uplink
			}
			l.add(p, packet(t, next, mac(a.MAC), from, l.worldAddr(peer, v)))
		}
		six := versions[1]
		from6, _ := six.one(a.Addrs, 2)
		p := probe{From: a.Target, To: peer, Words: "ip6 tcp 80", Send: peerPrefix + a.Dev}
		l.add(p, packet(trial{proto: family.ProtoTCP, port: 80}, next, mac(a.MAC), from6, l.worldAddr(peer, six)))
	}
	for _, proto := range []string{family.ProtoTCP, family.ProtoUDP, family.ProtoICMP} {
		p := probe{From: a.Target, To: "another family", Words: proto, Send: peerPrefix + a.Dev}
		l.add(p, packet(trial{proto: proto, port: 22}, next, mac(a.MAC), from, l.otherAddr()))
		p = probe{From: "another family", To: a.Target, Words: proto, Send: peerPrefix + otherDevice}
		l.add(p, packet(trial{proto: proto, port: 22}, mac(l.brMACs[neighbour]), mac(otherMAC), l.otherAddr(), from))
	}
}

// fromWorld has the outside send to a target's address.
func (l *scene) fromWorld(a Port) {
	v := versions[0]
	to, own := v.one(a.Addrs, 2)
	if !own {
		return
	}
	for _, peer := range []string{family.PeerInternet, family.PeerLAN} {
		for _, t := range l.trials(peer, a.Target, "") {
			p := probe{From: peer, To: a.Target, Words: t.words(v), Send: peerPrefix + uplink}
			if t.pass && a.Forwarded() {
				p.Expect = peerPrefix + a.Dev
			}
			l.add(p, packet(t, mac(uplinkMAC), mac(outsideMAC), l.worldAddr(peer, v), to))
		}
	}
}

// hostile sends what no policy can allow. None of it may come out anywhere.
func (l *scene) hostile(a Port) {
	v := versions[0]
	me, own := v.one(a.Addrs, 2)
	if !own {
		return
	}
	for _, to := range l.victims(a) {
		l.spoofs(a, to, me)
	}
	l.broadcasts(a, me)
}

// victim is where hostile packets go.
type victim struct {
	name string
	mac  net.HardwareAddr
	addr netip.Addr
}

func (l *scene) victims(a Port) []victim {
	list := []victim{{family.PeerInternet, mac(l.brMACs[a.Bridge]), internetAddr}}
	for _, b := range l.rules.Ports {
		if addrs := versions[0].addrs(b.Addrs); b.Segment == a.Segment && b.Dev != a.Dev && len(addrs) > 0 {
			list = append(list, victim{b.Target, mac(b.MAC), addrs[0]})
		}
	}
	return list
}

// spoofs use addresses of others and shapes that hide what is inside.
func (l *scene) spoofs(a Port, to victim, me netip.Addr) {
	proto, port := l.best(a.Target, to.name)
	t := trial{proto: proto, port: port}
	p := func(words string) probe {
		return probe{From: a.Target, To: to.name, Words: words, Send: peerPrefix + a.Dev}
	}
	l.add(p("another's MAC"), packet(t, to.mac, mac("52:54:00:66:66:66"), me, to.addr))
	l.add(p("address of nobody"), packet(t, to.mac, mac(a.MAC), me.Next().Next().Next(), to.addr))
	l.add(p("the host's address"), packet(t, to.mac, mac(a.MAC), at(l.lan, 2), to.addr))
	if to.name != family.PeerInternet {
		l.add(p("the target's own address"), packet(t, to.mac, mac(a.MAC), to.addr, to.addr))
		l.add(p("its address, to the MAC of all"), packet(t, everybody, mac(a.MAC), me, to.addr))
		l.add(p("arp reply for another's address"), func(_ uint16, token []byte) []byte {
			return ethernet(to.mac, mac(a.MAC), etherARP, arp(2, mac(a.MAC), me.Next().Next(), to.addr, token))
		})
		l.add(p("arp reply with another's MAC"), func(_ uint16, token []byte) []byte {
			return ethernet(to.mac, mac(a.MAC), etherARP, arp(2, mac("52:54:00:66:66:66"), me, to.addr, token))
		})
	}
	for words, fragment := range map[string]uint16{"first fragment": 0x2000, "later fragment": 0x0003} {
		l.add(p(words), func(source uint16, token []byte) []byte {
			body := udp(source, port, token)
			return frame{dst: to.mac, src: mac(a.MAC), from: me, to: to.addr, proto: protoUDP, fragment: fragment, body: append(body, make([]byte, 24-len(body)%8)...)}.bytes()
		})
	}
	l.add(p("inside a VLAN tag"), func(source uint16, token []byte) []byte {
		inner := packet(t, to.mac, mac(a.MAC), me, to.addr)(source, token)
		return ethernet(to.mac, mac(a.MAC), etherVLAN, append([]byte{0, 5}, inner[12:]...))
	})
}

// best returns a packet that would pass if it were honest, if there is any.
func (l *scene) best(from, to string) (string, uint16) {
	for _, a := range l.policy.Allows {
		if a.From == from && a.To == to && a.Proto != family.ProtoICMP {
			return a.Protos()[0], firstPort(a.Ports)
		}
	}
	return family.ProtoTCP, 80
}

// broadcasts speak to all at once: DHCP, mDNS, router advertisements, STP.
func (l *scene) broadcasts(a Port, me netip.Addr) {
	p := func(words string) probe {
		return probe{From: a.Target, To: "all", Words: words, Send: peerPrefix + a.Dev}
	}
	ip := func(dst net.HardwareAddr, from, to string, sport, dport uint16) func(uint16, []byte) []byte {
		return func(_ uint16, token []byte) []byte {
			f := frame{dst: dst, src: mac(a.MAC), from: me, to: netip.MustParseAddr(to), proto: protoUDP, body: udp(sport, dport, token)}
			if from != "" {
				f.from = netip.MustParseAddr(from)
			}
			return f.bytes()
		}
	}
	l.add(p("dhcp discover"), ip(everybody, "0.0.0.0", "255.255.255.255", 68, 67))
	l.add(p("dhcp offer"), ip(everybody, "", "255.255.255.255", 67, 68))
	l.add(p("mdns"), ip(net.HardwareAddr{1, 0, 0x5e, 0, 0, 251}, "", "224.0.0.251", 5353, 5353))
	six, _ := versions[1].one(a.Addrs, 2)
	all6 := net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	local := netip.MustParseAddr("fe80::6d:65")
	for words, from := range map[string]netip.Addr{"router advertisement": six, "router advertisement, link-local": local} {
		l.add(p(words), func(_ uint16, token []byte) []byte {
			body := append([]byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, token...)
			return frame{dst: all6, src: mac(a.MAC), from: from, to: netip.MustParseAddr("ff02::1"), proto: protoICMP6, body: body}.bytes()
		})
	}
	l.add(p("ping to all hosts"), packet(trial{proto: family.ProtoICMP}, net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}, mac(a.MAC), me, netip.MustParseAddr("224.0.0.1")))
	l.add(p("ping to all nodes"), packet(trial{proto: family.ProtoICMP}, all6, mac(a.MAC), six, netip.MustParseAddr("ff02::1")))
	l.add(p("ping to all routers of the link"), packet(trial{proto: family.ProtoICMP}, net.HardwareAddr{0x33, 0x33, 0, 0, 0, 2}, mac(a.MAC), local, netip.MustParseAddr("ff02::2")))
	l.add(p("spanning tree"), func(_ uint16, token []byte) []byte {
		body := append([]byte{0x42, 0x42, 3, 0, 0, 0, 0, 0}, token...)
		return ethernet(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}, mac(a.MAC), uint16(len(body)), body)
	})
	l.add(p("arp for nobody's address"), func(_ uint16, token []byte) []byte {
		return ethernet(everybody, mac(a.MAC), etherARP, arp(1, mac(a.MAC), me, me.Next().Next().Next().Next(), token))
	})
	l.add(p("unknown kind of frame"), func(_ uint16, token []byte) []byte {
		return ethernet(everybody, mac(a.MAC), 0x88b5, token) // IEEE 802: for local experiments
	})
}

// judge compares what was seen with what the policy says.
func (l *scene) judge(s Sightings, bridged bool) []Finding {
	var out []Finding
	for _, p := range l.bench.Probes {
		f := Finding{From: p.From, To: p.To, What: p.Words, Bridged: bridged, Packet: describe(p)}
		if p.Expect != "" {
			f.Want = true
		}
		for _, dev := range s.Seen[p.ID] {
			switch {
			case dev == p.Expect:
				f.Got = true
			case dev != p.Send || p.Own:
				f.Leaks = append(f.Leaks, l.deviceWords(dev))
			}
		}
		if p.Answer != nil && f.Got && !s.Answers[p.ID] {
			f.Trouble = "its answer did not get back"
		}
		if s.Unasked[p.ID] {
			f.Trouble = "an answer to another port than asked got back"
		}
		out = append(out, f)
	}
	return out
}

func (l *scene) deviceWords(dev string) string {
	if dev == peerPrefix+uplink {
		return "the uplink"
	}
	at := slices.IndexFunc(l.rules.Ports, func(p Port) bool { return peerPrefix+p.Dev == dev })
	if at < 0 {
		return "another family"
	}
	return l.rules.Ports[at].Target + " on " + l.rules.Ports[at].Bridge
}

// describe words a probe's packet.
func describe(p probe) string {
	if h := p.Host; h != nil {
		return fmt.Sprintf("%s %s:%d > %s:%d", h.Proto, h.From, h.Source, h.To, h.Port)
	}
	f := p.Frame
	head := fmt.Sprintf("%s > %s", net.HardwareAddr(f[6:12]), net.HardwareAddr(f[:6]))
	switch binary.BigEndian.Uint16(f[12:]) {
	case etherIP4:
		return fmt.Sprintf("%s, IPv4 %s > %s, protocol %d", head, netip.AddrFrom4([4]byte(f[26:30])), netip.AddrFrom4([4]byte(f[30:34])), f[23])
	case etherIP6:
		return fmt.Sprintf("%s, IPv6 %s > %s, protocol %d", head, netip.AddrFrom16([16]byte(f[22:38])), netip.AddrFrom16([16]byte(f[38:54])), f[20])
	}
	return fmt.Sprintf("%s, type 0x%x", head, f[12:14])
}
