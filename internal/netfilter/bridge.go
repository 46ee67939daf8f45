package netfilter

import (
	"fmt"
	"net/netip"
	"slices"

	"meros/internal/family"
)

// The bridge table decides what passes between ports of one bridge, and binds
// each port to its own addresses. It keeps connections in sets of its own, since
// kernels without CONFIG_NF_CONNTRACK_BRIDGE have no others there.
const (
	// RFC 5382 asks for at least 2 h 4 min for an idle TCP connection; half a day
	// outlives a night's shell. RFC 4787: 2 min for UDP at least.
	tcpIdle  = "12h"
	udpIdle  = "3m"
	pingIdle = "30s"
	// maxFlows bounds what guests can make the kernel remember.
	maxFlows = 65536
)

func (v version) flows() string { return "flows_" + v.ip }
func (v version) pings() string { return "pings_" + v.ip }

func (v version) flow() string {
	return fmt.Sprintf("%s saddr . %s daddr . meta l4proto . th sport . th dport", v.ip, v.ip)
}

func (v version) backflow() string {
	return fmt.Sprintf("%s daddr . %s saddr . meta l4proto . th dport . th sport", v.ip, v.ip)
}

func (v version) ping() string { return fmt.Sprintf("%s saddr . %s daddr . %s id", v.ip, v.ip, v.icmp) }

func (v version) pong() string { return fmt.Sprintf("%s daddr . %s saddr . %s id", v.ip, v.ip, v.icmp) }

func (c *compiler) bridgeTable() {
	c.writeSets()
	c.refusals("spoofed", "denied")
	if len(c.ports) == 0 {
		return
	}
	devices := quoted(c.devices())
	c.base("prerouting", "filter", "prerouting", bridgeEarly, func() { c.line("iifname %s jump from_port", devices) })
	c.base("input", "filter", "input", bridgeFilter, func() { c.line("iifname %s jump to_host", devices) })
	c.base("forward", "filter", "forward", bridgeFilter, func() {
		c.line("iifname %s jump between", devices)
		c.line("oifname %s jump between", devices)
	})
	c.base("output", "filter", "output", bridgeFilter, func() { c.line("oifname %s jump from_host", devices) })
	c.block("chain from_port", c.fromPort)
	c.block("chain to_host", c.bridgeToHost)
	for _, v := range versions {
		c.block("chain answers_"+v.ip, func() { c.answers(v) })
	}
	c.block("chain between", c.between)
	c.block("chain from_host", c.bridgeFromHost)
}

// fromPort lets a port send as itself only. Fragments, options and extension headers
// go no further: what cannot be judged alike with and without br_netfilter, and what
// stands before the ports that a rule is about, is not passed.
func (c *compiler) fromPort() {
	c.line("@ll,96,16 { 0x8100, 0x88a8 } goto refuse_denied") // a tag that the kernel hides from the rest
	c.line("ip frag-off & 0x3fff != 0 goto refuse_denied")
	c.line("ip hdrlength != 5 goto refuse_denied")
	c.line("ip6 nexthdr != { tcp, udp, ipv6-icmp } goto refuse_denied")
	for _, p := range c.ports {
		me := fmt.Sprintf(`iifname "%s" ether saddr %s`, p.Dev, p.MAC)
		if v4 := versions[0].addrs(p.Addrs); len(v4) > 0 {
			c.line("%s ip saddr %s accept", me, set(v4))
			c.line("%s arp htype 1 arp ptype ip arp operation { request, reply } arp saddr ether %s arp saddr ip %s accept", me, p.MAC, set(v4))
		}
		if v6 := versions[1].addrs(p.Addrs); len(v6) > 0 {
			c.line("%s icmpv6 type { nd-router-solicit, nd-router-advert, nd-redirect, mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report } goto refuse_denied", me)
			for _, a := range v6 {
				c.line("%s ip6 saddr %s icmpv6 type nd-neighbor-advert ip6 hoplimit 255 @th,64,128 %s accept", me, set(v6), hex(a))
			}
			c.line("%s ip6 saddr %s icmpv6 type != nd-neighbor-advert accept", me, set(v6))
			c.line("%s ip6 saddr %s meta l4proto != ipv6-icmp accept", me, set(v6))
		}
		c.foreign(p, me)
	}
	c.line("goto refuse_spoofed")
}

// foreign lets a next hop send on what comes from beyond it. Whom to, and that it
// was asked for, between decides; the host takes none of it.
func (c *compiler) foreign(p Port, me string) {
	for _, peer := range c.viaPeers(p) {
		for _, v := range versions {
			if len(v.addrs(p.Addrs)) > 0 {
				c.line("%s %s accept", me, c.beyond(v, "saddr", peer))
			}
		}
	}
}

// hex writes an address as a number.
func hex(a netip.Addr) string {
	b := a.As16()
	return fmt.Sprintf("0x%x", b[:])
}

// viaPeers are what a port passes on for other targets, as their next hop.
func (c *compiler) viaPeers(p Port) []string {
	var peers []string
	for _, a := range c.policy.Allows {
		if a.Via != p.Target {
			continue
		}
		for _, link := range c.pairs(a.From, a.Via) {
			if link.to.Dev == p.Dev && !slices.Contains(peers, a.To) {
				peers = append(peers, a.To)
			}
		}
	}
	return peers
}

// between decides on what goes from one port of a bridge to another.
func (c *compiler) between() {
	c.neighbours()
	// Bound to port, MAC and address, or an answer to one could be sent to another.
	for _, p := range c.ports {
		for _, v := range versions {
			if mine := v.addrs(p.Addrs); len(mine) > 0 {
				c.line(`oifname "%s" ether daddr %s %s daddr %s jump answers_%s`, p.Dev, p.MAC, v.ip, set(mine), v.ip)
			}
		}
	}
	for _, a := range c.policy.Allows {
		switch {
		case a.Via != "":
			for _, l := range c.pairs(a.From, a.Via) {
				c.betweenVia(a, l)
			}
		case family.IsTarget(a.From) && family.IsTarget(a.To):
			for _, l := range c.pairs(a.From, a.To) {
				c.betweenPair(a, l)
			}
		}
	}
	c.line("goto refuse_denied")
}

// answers lets through what belongs to a connection that was allowed.
func (c *compiler) answers(v version) {
	for _, l4 := range [][2]string{{"tcp", tcpIdle}, {"udp", udpIdle}} {
		c.line("meta l4proto %s %s @%s update @%s { %s timeout %s } accept", l4[0], v.backflow(), v.flows(), v.flows(), v.backflow(), l4[1])
	}
	c.line("%s type %s %s @%s accept", v.icmp, v.reply, v.pong(), v.pings())
}

func way(l pair) string {
	return fmt.Sprintf(`iifname "%s" oifname "%s" ether daddr %s`, l.from.Dev, l.to.Dev, l.to.MAC)
}

func (c *compiler) betweenPair(a *family.Allow, l pair) {
	for _, v := range versions {
		from, to := v.addrs(l.from.Addrs), v.addrs(l.to.Addrs)
		if len(from) > 0 && len(to) > 0 {
			c.remember(a, v, fmt.Sprintf("%s %s saddr %s %s daddr %s", way(l), v.ip, set(from), v.ip, set(to)))
		}
	}
}

func (c *compiler) betweenVia(a *family.Allow, l pair) {
	for _, v := range versions {
		from := v.addrs(l.from.Addrs)
		if len(from) == 0 || len(v.addrs(l.to.Addrs)) == 0 {
			continue
		}
		c.remember(a, v, fmt.Sprintf("%s %s saddr %s %s", way(l), v.ip, set(from), c.beyond(v, "daddr", a.To)))
		errors := "{ destination-unreachable, time-exceeded, parameter-problem }"
		if v.ip == "ip6" {
			errors = "{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem }"
		}
		c.line("%s %s daddr %s %s type %s limit rate 100/second accept", way(pair{l.to, l.from}), v.ip, set(from), v.icmp, errors)
	}
}

// remember accepts what a rule allows and notes it, so that answers pass.
func (c *compiler) remember(a *family.Allow, v version, match string) {
	traffic := v.traffic(a)
	for _, proto := range a.Protos() {
		key, name, idle := v.flow(), v.flows(), tcpIdle
		switch proto {
		case family.ProtoUDP:
			idle = udpIdle
		case family.ProtoICMP:
			key, name, idle = v.ping(), v.pings(), pingIdle
		}
		c.accept(a, match+" "+traffic[proto], fmt.Sprintf("update @%s { %s timeout %s }", name, key, idle))
	}
}

// neighbours lets ports that have something to say to each other, and only
// those, find each other.
func (c *compiler) neighbours() {
	done := map[string]bool{}
	for _, a := range c.policy.Allows {
		to := a.To
		if a.Via != "" {
			to = a.Via
		}
		if !family.IsTarget(a.From) || !family.IsTarget(to) {
			continue
		}
		for _, l := range c.pairs(a.From, to) {
			for _, w := range []pair{l, {l.to, l.from}} {
				ways := fmt.Sprintf(`iifname "%s" oifname "%s"`, w.from.Dev, w.to.Dev)
				if done[ways] {
					continue
				}
				done[ways] = true
				c.resolve(ways, w)
			}
		}
	}
}

// resolve lets ARP and neighbour discovery pass one way.
func (c *compiler) resolve(ways string, w pair) {
	if v4 := versions[0].addrs(w.to.Addrs); len(v4) > 0 {
		c.line("%s arp daddr ip %s accept", ways, set(v4))
	}
	v6 := versions[1].addrs(w.to.Addrs)
	for _, a := range v6 {
		c.line("%s icmpv6 type nd-neighbor-solicit ip6 hoplimit 255 @th,64,128 %s accept", ways, hex(a))
	}
	if len(v6) > 0 {
		c.line("%s icmpv6 type nd-neighbor-advert ip6 daddr %s accept", ways, set(v6))
	}
}

// meetsHost reports whether anything is allowed that passes the host's own end
// of a port's bridge.
func (c *compiler) meetsHost(p Port) bool {
	for _, a := range c.policy.Allows {
		if a.Via != "" || a.From != p.Target && a.To != p.Target {
			continue
		}
		other := a.From
		if other == p.Target {
			other = a.To
		}
		if other == family.PeerHost || family.External(other) && p.Forwarded() {
			return true
		}
	}
	return false
}

// bridgeToHost passes on what the inet table then judges.
func (c *compiler) bridgeToHost() {
	for _, p := range c.ports {
		if !c.meetsHost(p) {
			continue
		}
		me := fmt.Sprintf(`iifname "%s"`, p.Dev)
		if host := versions[0].hostAddrs(p); len(host) > 0 && len(versions[0].addrs(p.Addrs)) > 0 {
			c.line("%s arp daddr ip %s accept", me, set(host))
			c.line("%s ip saddr %s accept", me, set(versions[0].addrs(p.Addrs)))
		}
		if host := versions[1].hostAddrs(p); len(host) > 0 && len(versions[1].addrs(p.Addrs)) > 0 {
			// The host never forwards IPv6 for guests, and so need not even say that it
			// does not.
			c.line("%s ip6 saddr %s ip6 daddr %s accept", me, set(versions[1].addrs(p.Addrs)), set(host))
			for _, a := range host {
				c.line("%s icmpv6 type nd-neighbor-solicit ip6 hoplimit 255 @th,64,128 %s accept", me, hex(a))
			}
		}
	}
	c.line("goto refuse_denied")
}

func (c *compiler) bridgeFromHost() {
	for _, p := range c.ports {
		if !c.meetsHost(p) {
			continue
		}
		if v4, host := versions[0].addrs(p.Addrs), versions[0].hostAddrs(p); len(v4) > 0 && len(host) > 0 {
			c.line(`oifname "%s" arp saddr ip %s arp daddr ip %s accept`, p.Dev, set(host), set(v4))
			c.line(`oifname "%s" ether daddr %s ip daddr %s accept`, p.Dev, p.MAC, set(v4))
		}
		if v6 := versions[1].addrs(p.Addrs); len(v6) > 0 && len(versions[1].hostAddrs(p)) > 0 {
			c.line(`oifname "%s" ether daddr %s ip6 daddr %s accept`, p.Dev, p.MAC, set(v6))
			for _, a := range v6 {
				c.line(`oifname "%s" icmpv6 type nd-neighbor-solicit @th,64,128 %s accept`, p.Dev, hex(a))
			}
		}
	}
	c.line("goto refuse_denied")
}

// writeSets writes the sets that remember connections.
func (c *compiler) writeSets() {
	for _, v := range versions {
		for _, s := range [][2]string{{v.flows(), v.flow()}, {v.pings(), v.ping()}} {
			c.block("set "+s[0], func() {
				c.line("typeof %s", s[1])
				c.line("flags dynamic,timeout")
				c.line("size %d", maxFlows)
			})
		}
	}
}
