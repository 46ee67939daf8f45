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
		p.Token, p.Offset = append(slices.Concat(host.AsSlice(), from.AsSlice()), 136, 0), 22 // an advertisement of the host's, to who asked
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

// toWorld sends to lan and internet, with the host as next hop.
func (l *scene) toWorld(a Port) {
	next := mac(l.brMACs[a.Bridge])
	for _, v := range versions {
		from, own := v.one(a.Addrs, 2)
		for _, to := range l.world(v) {
			for _, t := range l.trials(a.Target, to.peer, "") {
				p := probe{From: a.Target, To: to.peer, Words: to.words(t, v), Send: peerPrefix + a.Dev}
				if t.pass && own && a.Forwarded() && v.ip == "ip" { // IPv6 is never forwarded
					p.Expect = peerPrefix + uplink
				}
				l.add(p, packet(t, next, mac(a.MAC), from, to.addr))
				if t.proto == family.ProtoTCP && p.Expect != "" {
					p.Expect, p.Words = "", p.Words+" with flags that no connection begins with"
					l.add(p, func(source uint16, token []byte) []byte {
						return frame{dst: next, src: mac(a.MAC), from: from, to: to.addr, proto: protoTCP, body: tcp(source, t.port, tcpSYN|tcpFIN, token)}.bytes()
					})
				}
			}
		}
	}
}

// fromWorld has the outside send to a target's address.
func (l *scene) fromWorld(a Port) {
	for _, v := range versions {
		to, own := v.one(a.Addrs, 2)
		if !own {
			continue
		}
		for _, from := range l.world(v) {
			for _, t := range l.trials(from.peer, a.Target, "") {
				p := probe{From: from.peer, To: a.Target, Words: from.words(t, v), Send: peerPrefix + uplink}
				if t.pass && a.Forwarded() && v.ip == "ip" {
					p.Expect = peerPrefix + a.Dev
				}
				l.add(p, packet(t, mac(uplinkMAC), mac(outsideMAC), from.addr, to))
			}
		}
	}
}

// strangers send to each other: a target and a guest of another family. What lan and
// internet may, they may not.
func (l *scene) strangers(a Port) {
	v := versions[0]
	me, _ := v.one(a.Addrs, 2)
	for _, peer := range []string{family.PeerInternet, family.PeerLAN} {
		for _, t := range l.trials(a.Target, peer, "") {
			p := probe{From: a.Target, To: strangersName, Words: t.words(v) + ", as to " + peer, Send: peerPrefix + a.Dev}
			l.add(p, packet(t, mac(l.brMACs[a.Bridge]), mac(a.MAC), me, l.otherAddr()))
		}
		if len(v.hostAddrs(a)) == 0 {
			continue // the host knows no way there
		}
		for _, t := range l.trials(peer, a.Target, "") {
			p := probe{From: strangersName, To: a.Target, Words: t.words(v) + ", as from " + peer, Send: peerPrefix + otherDevice}
			l.add(p, packet(t, mac(l.brMACs[neighbour]), mac(otherMAC), l.otherAddr(), me))
		}
	}
}

// unknown sends from a port of the bridge that nobody knows to one of the family; what
// the family sends to all shows the way back.
func (l *scene) unknown(a Port) {
	send := peerPrefix + unknownDevice(slices.Index(l.policy.Segments, a.Segment))
	for _, v := range versions {
		to, own := v.one(a.Addrs, 2)
		if !own {
			continue
		}
		from := to.Next().Next().Next()
		p := probe{From: "an unknown port", To: a.Target, Words: v.ip + " tcp 80", Send: send}
		l.add(p, packet(trial{proto: family.ProtoTCP, port: 80}, mac(a.MAC), mac(nobodysMAC), from, to))
		p.Words = "who has (" + v.ip + ")"
		l.add(p, whoHas(Port{MAC: nobodysMAC}, v, from, to))
	}
}

const strangersName = "another family"

// judge compares what was seen with what the policy says.
func (l *scene) judge(s Sightings, under setting) []Finding {
	var out []Finding
	for _, p := range l.bench.Probes {
		f := Finding{From: p.From, To: p.To, What: p.Words, Bridged: under.bridged, Alone: under.alone, Packet: describe(p)}
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
		if p.Complaint != nil && f.Got && !s.Heard[p.ID] {
			f.Trouble = "its next hop's complaint did not get back"
		}
		if s.Forged[p.ID] {
			f.Trouble = "an answer by somebody else got back"
		}
		hidden := s.Sources[p.ID] == at(l.lan, 2).String()
		if f.Got && p.Expect == peerPrefix+uplink && hidden != (p.To == family.PeerInternet) {
			f.Trouble = "it shows its own address to the internet"
			if hidden {
				f.Trouble = "it has the host's address, by which lan cannot tell it"
			}
		}
		out = append(out, f)
	}
	return out
}

func (l *scene) deviceWords(dev string) string {
	if dev == peerPrefix+uplink {
		return "the uplink"
	}
	for i := range l.policy.Segments {
		if dev == peerPrefix+unknownDevice(i) {
			return "an unknown port"
		}
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
