package netfilter

import (
	"fmt"
	"slices"

	"meros/internal/family"
)

// maxConns bounds the connections that one guest may have through the host. The
// kernel's own table holds 262144 on a host of a few GiB (nf_conntrack_max).
const maxConns = 4096

// inetTable decides on what the host takes in, sends out and forwards. Bridged
// frames come here too where br_netfilter hands them on: the same policy in
// addresses instead of ports lets them pass.
func (c *compiler) inetTable() {
	c.refusals("denied")
	for _, v := range versions {
		c.block("set conns_"+v.ip, func() {
			c.line("typeof %s saddr", v.ip)
			c.line("flags dynamic")
			c.line("size %d", maxFlows)
		})
	}
	if len(c.policy.Segments) == 0 {
		return
	}
	bridges := quoted(c.bridges())
	c.base("input", "filter", "input", inetFilter, func() { c.line("iifname %s jump to_host", bridges) })
	c.base("output", "filter", "output", inetFilter, func() {
		c.line("oifname %s jump from_host", bridges)
		// The host's end of a port is a link of its own, and the kernel speaks IPv6 by
		// it, past the bridge: who it is, which groups it has joined.
		if len(c.ports) > 0 {
			c.line("oifname %s goto refuse_denied", quoted(c.devices()))
		}
	})
	c.base("forward", "filter", "forward", inetFilter, func() {
		c.line("iifname %s jump through", bridges)
		c.line("oifname %s jump through", bridges)
	})
	c.base("postrouting", "nat", "postrouting", sourceNAT, func() { c.masquerade(bridges) })
	c.block("chain to_host", func() {
		c.discovery()
		c.bounded(bridges)
		c.hostRules(true)
		c.line("goto refuse_denied")
	})
	c.block("chain from_host", func() {
		c.discovery()
		c.stateful()
		c.hostRules(false)
		c.line("goto refuse_denied")
	})
	c.block("chain through", func() {
		c.bridgedDiscovery()
		c.strangers()
		c.bounded(bridges)
		c.through(bridges)
		c.line("goto refuse_denied")
	})
}

func (c *compiler) stateful() {
	c.line("ct state established,related accept")
	c.line("ct state != new goto refuse_denied")
}

func (c *compiler) bounded(bridges string) {
	c.stateful()
	for _, v := range versions {
		c.line("iifname %s add @conns_%s { %s saddr ct count over %d } goto refuse_denied", bridges, v.ip, v.ip, maxConns)
	}
}

// bridgedDiscovery is how guests with IPv6 find each other where br_netfilter hands
// their frames on. Who may find whom, the bridge table has decided; connection
// tracking does not track it (nf_conntrack_proto_icmpv6).
func (c *compiler) bridgedDiscovery() {
	for _, s := range c.policy.Segments {
		if slices.ContainsFunc(c.ports, func(p Port) bool { return p.Segment == s && len(versions[1].addrs(p.Addrs)) > 0 }) {
			c.line(`iifname "%s" oifname "%s" icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept`, s.Bridge, s.Bridge)
		}
	}
}

// strangers keeps those on other bridges of this host, guests of another family
// for one, from being lan or internet, whatever their addresses: neither can be told
// from a machine beyond the host by anything else. It holds for bridges that come later.
func (c *compiler) strangers() {
	known := quoted(slices.Concat(c.bridges(), c.host.Bridges))
	c.line(`oifname != %s meta oifkind "bridge" goto refuse_denied`, known)
	c.line(`iifname != %s meta iifkind "bridge" goto refuse_denied`, known)
}

// discovery is how the host and guests with IPv6 find each other; which of them
// may, the bridge table has decided.
func (c *compiler) discovery() {
	for _, p := range c.ports {
		if c.meetsHost(p) && len(versions[1].hostAddrs(p)) > 0 && len(versions[1].addrs(p.Addrs)) > 0 {
			c.line("icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept")
			return
		}
	}
}

// hostRules are those between targets and the host's addresses on their networks.
func (c *compiler) hostRules(in bool) {
	for _, a := range c.policy.Allows {
		target, other := a.To, a.From
		if in {
			target, other = a.From, a.To
		}
		if other != family.PeerHost || !family.IsTarget(target) {
			continue
		}
		for _, p := range c.portsOf(target) {
			for _, v := range versions {
				c.hostRule(a, p, v, in)
			}
		}
	}
}

func (c *compiler) hostRule(a *family.Allow, p Port, v version, in bool) {
	guest, host := v.addrs(p.Addrs), v.hostAddrs(p)
	if len(guest) == 0 || len(host) == 0 {
		return
	}
	match := fmt.Sprintf(`oifname "%s" %s saddr %s %s daddr %s`, p.Bridge, v.ip, set(host), v.ip, set(guest))
	if in {
		match = fmt.Sprintf(`iifname "%s" %s saddr %s %s daddr %s`, p.Bridge, v.ip, set(guest), v.ip, set(host))
	}
	c.each(a, v, match)
}

// each writes a rule for every protocol that a allows.
func (c *compiler) each(a *family.Allow, v version, match string) {
	traffic := v.traffic(a)
	for _, proto := range a.Protos() {
		c.accept(a, match+" "+traffic[proto], "")
	}
}

// through decides on what is forwarded, routed or bridged.
func (c *compiler) through(bridges string) {
	for _, a := range c.policy.Allows {
		for _, v := range versions {
			switch {
			case a.Via != "":
				c.bridged(a, v, a.Via)
			case family.IsTarget(a.From) && family.IsTarget(a.To):
				c.bridged(a, v, a.To)
			case family.External(a.To):
				c.routed(a, v, a.From, fmt.Sprintf(`oifname != %s %s`, bridges, c.beyond(v, "daddr", a.To)), "i")
			case family.External(a.From):
				c.routed(a, v, a.To, fmt.Sprintf(`iifname != %s %s`, bridges, c.beyond(v, "saddr", a.From)), "o")
			}
		}
	}
}

func (c *compiler) bridged(a *family.Allow, v version, next string) {
	for _, l := range c.pairs(a.From, next) {
		from, to := v.addrs(l.from.Addrs), v.addrs(l.to.Addrs)
		if len(from) == 0 || len(to) == 0 {
			continue
		}
		dest := fmt.Sprintf("%s daddr %s", v.ip, set(to))
		if a.Via != "" {
			dest = c.beyond(v, "daddr", a.To)
		}
		c.each(a, v, fmt.Sprintf(`iifname "%s" oifname "%s" %s saddr %s %s`, l.from.Bridge, l.from.Bridge, v.ip, set(from), dest))
	}
}

func (c *compiler) routed(a *family.Allow, v version, target, beyond, side string) {
	addr := map[string]string{"i": "saddr", "o": "daddr"}[side]
	for _, p := range c.portsOf(target) {
		if mine := v.addrs(p.Addrs); v.ip == "ip" && p.Forwarded() {
			c.each(a, v, fmt.Sprintf(`%sifname "%s" %s %s %s %s`, side, p.Bridge, v.ip, addr, set(mine), beyond))
		}
	}
}

// masquerade gives the host's address to what is allowed to the internet.
func (c *compiler) masquerade(bridges string) {
	done := map[string]bool{}
	for _, a := range c.policy.Allows {
		if a.To != family.PeerInternet || a.Via != "" || done[a.From] {
			continue
		}
		done[a.From] = true
		for _, p := range c.portsOf(a.From) {
			if v := versions[0]; p.Forwarded() {
				c.line("oifname != %s ip saddr %s %s masquerade", bridges, set(v.addrs(p.Addrs)), c.beyond(v, "daddr", a.To))
			}
		}
	}
}
