package netfilter

import (
	"net"
	"net/netip"
	"slices"

	"meros/internal/family"
)

// nobodysMAC is no port's.
const nobodysMAC = "52:54:00:66:66:66"

// hostile sends what no policy can allow. None of it may come out anywhere.
func (l *scene) hostile(a Port) {
	for _, v := range versions {
		me, own := v.one(a.Addrs, 2)
		if !own {
			continue
		}
		for _, to := range l.victims(a, v) {
			l.spoofs(a, to, me, v)
			l.shapes(a, to, me, v)
			if v.ip == "ip6" {
				l.discoveries(a, to, me)
			}
		}
	}
	if me, own := versions[0].one(a.Addrs, 2); own {
		l.broadcasts(a, me)
	}
	six, _ := versions[1].one(a.Addrs, 2)
	l.groups(a, six)
}

// victim is where hostile packets go: a neighbour, or the host.
type victim struct {
	name string
	mac  net.HardwareAddr
	addr netip.Addr
	port *Port // of the neighbour
}

// victims are the neighbours, and the host: as the next hop, and as itself where it
// has an address.
func (l *scene) victims(a Port, v version) []victim {
	bridge := mac(l.brMACs[a.Bridge])
	list := []victim{{family.PeerInternet, bridge, l.worldAddr(family.PeerInternet, v), nil}}
	if host := v.hostAddrs(a); len(host) > 0 {
		list = append(list, victim{family.PeerHost, bridge, host[0], nil})
	}
	for _, b := range l.rules.Ports {
		if addrs := v.addrs(b.Addrs); b.Segment == a.Segment && b.Dev != a.Dev && len(addrs) > 0 {
			list = append(list, victim{b.Target, mac(b.MAC), addrs[0], &b})
		}
	}
	return list
}

// neighboursOf are those in whose name a port may try to speak to another.
func (l *scene) neighboursOf(a Port, to victim, v version) []Port {
	return slices.DeleteFunc(slices.Clone(l.rules.Ports), func(n Port) bool {
		return n.Segment != a.Segment || n.Target == a.Target || n.Target == to.name || len(v.addrs(n.Addrs)) == 0
	})
}

func (to victim) probe(a Port, words string) probe {
	return probe{From: a.Target, To: to.name, Words: words, Send: peerPrefix + a.Dev, Own: to.name == family.PeerHost, Offset: -1}
}

// spoofs use addresses of others.
func (l *scene) spoofs(a Port, to victim, me netip.Addr, v version) {
	t := l.best(a.Target, to.name)
	send := func(words string, dst, src net.HardwareAddr, from netip.Addr) {
		l.add(to.probe(a, v.ip+" "+words), packet(t, dst, src, from, to.addr))
	}
	send("another's MAC", to.mac, mac(nobodysMAC), me)
	send("address of nobody", to.mac, mac(a.MAC), me.Next().Next().Next())
	if v.ip == "ip" {
		send("the host's address", to.mac, mac(a.MAC), at(l.lan, 2))
	}
	for _, n := range l.neighboursOf(a, to, v) {
		send("address of "+n.Target, to.mac, mac(a.MAC), v.addrs(n.Addrs)[0])
		send("address and MAC of "+n.Target, to.mac, mac(n.MAC), v.addrs(n.Addrs)[0])
	}
	if to.port == nil {
		return
	}
	send("the target's own address", to.mac, mac(a.MAC), to.addr)
	send("its address, to the MAC of all", everybody, mac(a.MAC), me)
	if v.ip == "ip6" {
		return
	}
	type forgery struct {
		src  net.HardwareAddr
		body []byte
	}
	own := arp(2, mac(a.MAC), me, to.addr, nil)
	forgeries := map[string]forgery{
		"arp reply for another's address": {mac(a.MAC), arp(2, mac(a.MAC), me.Next().Next(), to.addr, nil)},
		"arp reply with another's MAC":    {mac(a.MAC), arp(2, mac(nobodysMAC), me, to.addr, nil)},
		"arp reply from another's MAC":    {mac(nobodysMAC), own},
		"arp of another kind":             {mac(a.MAC), append([]byte{0, 1, 8, 0, 6, 4, 0, 9}, own[8:]...)}, // RFC 2390
	}
	for _, n := range l.neighboursOf(a, to, v) {
		forgeries["arp reply of "+n.Target] = forgery{mac(n.MAC), arp(2, mac(n.MAC), v.addrs(n.Addrs)[0], to.addr, nil)}
	}
	for words, forged := range forgeries {
		l.add(to.probe(a, words), func(_ uint16, token []byte) []byte {
			return ethernet(to.mac, forged.src, etherARP, append(slices.Clone(forged.body), token...))
		})
	}
}

// shapes hide what is inside.
func (l *scene) shapes(a Port, to victim, me netip.Addr, v version) {
	t := l.best(a.Target, to.name)
	shape := func(words string, change func(f *frame)) {
		l.add(to.probe(a, v.ip+" "+words), func(source uint16, token []byte) []byte {
			f := t.frame(to.mac, mac(a.MAC), me, to.addr, source, token)
			f.body = append(f.body, make([]byte, 24-len(f.body)%8)...) // a part is of eight bytes or more
			change(&f)
			return f.bytes()
		})
	}
	if v.ip == "ip" {
		shape("first fragment", func(f *frame) { f.fragment = 0x2000 })
		shape("later fragment", func(f *frame) { f.fragment = 0x0003 })
		shape("options", func(f *frame) { f.options = []byte{0x94, 4, 0, 0} }) // router alert: RFC 2113
	} else {
		for words, head := range map[string]struct {
			kind  byte
			bytes []byte
		}{
			"first fragment":      {protoFragment, []byte{0, 0, 0, 1, 0, 0, 0, 7}},
			"later fragment":      {protoFragment, []byte{0, 0, 0, 24, 0, 0, 0, 7}},
			"only fragment":       {protoFragment, []byte{0, 0, 0, 0, 0, 0, 0, 7}}, // RFC 6946
			"hop-by-hop header":   {protoHopByHop, []byte{0, 0, 1, 4, 0, 0, 0, 0}},
			"destination options": {protoDestination, []byte{0, 0, 1, 4, 0, 0, 0, 0}},
			"routing header":      {protoRouting, []byte{0, 0, 4, 0, 0, 0, 0, 0}},
			"authentication":      {protoAuth, []byte{0, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
		} {
			shape(words, func(f *frame) { f.before, f.extra = head.kind, head.bytes })
		}
	}
	for words, tag := range map[string]uint16{"inside a VLAN tag": etherVLAN, "inside a service tag": etherQinQ} {
		l.add(to.probe(a, v.ip+" "+words), func(source uint16, token []byte) []byte {
			inner := packet(t, to.mac, mac(a.MAC), me, to.addr)(source, token)
			return ethernet(to.mac, mac(a.MAC), tag, append([]byte{0, 5}, inner[12:]...))
		})
	}
}

// best returns a packet that would pass if it were honest, if there is any.
func (l *scene) best(from, to string) trial {
	for _, a := range l.policy.Allows {
		if a.From == from && a.To == to && a.Proto != family.ProtoICMP {
			return trial{proto: a.Protos()[0], port: firstPort(a.Ports)}
		}
	}
	return trial{proto: family.ProtoTCP, port: 80}
}

// discovery is a message of neighbour discovery, or of its like, as it may be forged.
type discovery struct {
	src   string // MAC
	from  netip.Addr
	kind  byte
	about netip.Addr
	hops  byte
}

// discoveries speak of addresses of others, and of routes, by ICMPv6.
func (l *scene) discoveries(a Port, to victim, me netip.Addr) {
	const solicit, advert = 135, 136
	stranger := me.Next().Next().Next()
	list := map[string]discovery{
		"neighbour advertisement for another's address":    {from: me, kind: advert, about: stranger},
		"neighbour advertisement for the target's address": {from: me, kind: advert, about: to.addr},
		"neighbour advertisement from another's address":   {from: stranger, kind: advert, about: me},
		"neighbour advertisement from another's MAC":       {src: nobodysMAC, from: me, kind: advert, about: me},
		"neighbour advertisement from afar":                {from: me, kind: advert, about: me, hops: 64},
		"neighbour solicitation from another's address":    {from: stranger, kind: solicit, about: to.addr},
		"neighbour solicitation from another's MAC":        {src: nobodysMAC, from: me, kind: solicit, about: to.addr},
		"neighbour solicitation from afar":                 {from: me, kind: solicit, about: to.addr, hops: 64},
		"redirect":                                         {from: me, kind: 137, about: to.addr},
		"router solicitation":                              {from: me, kind: 133, about: to.addr},
		"router advertisement":                             {from: me, kind: 134, about: to.addr},
		"mld query":                                        {from: me, kind: 130, about: to.addr},
		"mld report":                                       {from: me, kind: 131, about: to.addr},
		"mld done":                                         {from: me, kind: 132, about: to.addr},
		"mld2 report":                                      {from: me, kind: 143, about: to.addr},
	}
	for _, n := range l.neighboursOf(a, to, versions[1]) {
		addr := versions[1].addrs(n.Addrs)[0]
		list["neighbour advertisement of "+n.Target] = discovery{src: n.MAC, from: addr, kind: advert, about: addr}
		list["neighbour solicitation of "+n.Target] = discovery{src: n.MAC, from: addr, kind: solicit, about: to.addr}
	}
	for words, d := range list {
		if d.src == "" {
			d.src = a.MAC
		}
		l.add(to.probe(a, words), func(_ uint16, token []byte) []byte {
			return frame{dst: to.mac, src: mac(d.src), from: d.from, to: to.addr, hops: d.hops, proto: protoICMP6, body: discovery6(d.kind, d.about, skipped(token))}.bytes()
		})
	}
}

// broadcasts speak to all at once: DHCP, mDNS, STP.
func (l *scene) broadcasts(a Port, me netip.Addr) {
	ip := func(dst net.HardwareAddr, from, to string, sport, dport uint16) func(uint16, []byte) []byte {
		return func(_ uint16, token []byte) []byte {
			f := frame{dst: dst, src: mac(a.MAC), from: me, to: netip.MustParseAddr(to), proto: protoUDP, body: udp(sport, dport, token)}
			if from != "" {
				f.from = netip.MustParseAddr(from)
			}
			return f.bytes()
		}
	}
	l.add(toAll(a, "dhcp discover"), ip(everybody, "0.0.0.0", "255.255.255.255", 68, 67))
	l.add(toAll(a, "dhcp offer"), ip(everybody, "", "255.255.255.255", 67, 68))
	l.add(toAll(a, "mdns"), ip(net.HardwareAddr{1, 0, 0x5e, 0, 0, 251}, "", "224.0.0.251", 5353, 5353))
	l.add(toAll(a, "ping to all hosts"), packet(trial{proto: family.ProtoICMP}, net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}, mac(a.MAC), me, netip.MustParseAddr("224.0.0.1")))
	l.add(toAll(a, "spanning tree"), func(_ uint16, token []byte) []byte {
		body := append([]byte{0x42, 0x42, 3, 0, 0, 0, 0, 0}, token...)
		return ethernet(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}, mac(a.MAC), uint16(len(body)), body)
	})
	l.add(toAll(a, "arp for nobody's address"), func(_ uint16, token []byte) []byte {
		return ethernet(everybody, mac(a.MAC), etherARP, arp(1, mac(a.MAC), me, me.Next().Next().Next().Next(), token))
	})
	l.add(toAll(a, "unknown kind of frame"), func(_ uint16, token []byte) []byte {
		return ethernet(everybody, mac(a.MAC), 0x88b5, token) // IEEE 802: for local experiments
	})
}

func toAll(a Port, words string) probe {
	return probe{From: a.Target, To: "all", Words: words, Send: peerPrefix + a.Dev}
}

// groups speak to the groups of IPv6, from an address of the port or a link's own.
func (l *scene) groups(a Port, six netip.Addr) {
	nodes, routers := netip.MustParseAddr("ff02::1"), netip.MustParseAddr("ff02::2")
	all6, local := net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, netip.MustParseAddr("fe80::6d:65")
	for words, from := range map[string]netip.Addr{"router advertisement to all": six, "router advertisement to all, link-local": local} {
		l.add(toAll(a, words), func(_ uint16, token []byte) []byte {
			body := append([]byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, token...)
			return frame{dst: all6, src: mac(a.MAC), from: from, to: nodes, proto: protoICMP6, body: body}.bytes()
		})
	}
	l.add(toAll(a, "ping to all nodes"), packet(trial{proto: family.ProtoICMP}, all6, mac(a.MAC), six, nodes))
	l.add(toAll(a, "ping to all routers of the link"), packet(trial{proto: family.ProtoICMP}, net.HardwareAddr{0x33, 0x33, 0, 0, 0, 2}, mac(a.MAC), local, routers))
	l.add(toAll(a, "mld query to all"), func(_ uint16, token []byte) []byte {
		alert := []byte{0, 0, 5, 2, 0, 0, 1, 0} // router alert: RFC 2711
		body := append(append([]byte{130, 0, 0, 0, 0, 0, 0, 0}, netip.IPv6Unspecified().AsSlice()...), token...)
		return frame{dst: all6, src: mac(a.MAC), from: six, to: nodes, proto: protoICMP6, before: protoHopByHop, extra: alert, body: body}.bytes()
	})
}
