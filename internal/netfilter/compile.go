package netfilter

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"meros/internal/family"
)

// Host is what rules need to know of this host.
type Host struct {
	Subnets []netip.Prefix // its own, beyond the family's: they are lan, whatever their range
	Inner   []netip.Prefix // of bridges that lead to guests and containers alone: nobody's lan
	Bridges []string       // that lead out of the host: all others have guests or containers on them
}

// Port is a port of a policy with the name and MAC that it has on this host.
type Port struct {
	*family.Port
	Dev string // the host's end of it
	MAC string
}

// Ruleset is a compiled policy.
type Ruleset struct {
	Family string
	Text   string // for nft -f; replaces an earlier one of the family
	Ports  []Port
	Lan    []netip.Prefix // the host's own subnets, which it takes for lan
}

// Table is the name of a family's tables.
func Table(family string) string { return "meros_" + family }

// Device returns what the host's end of a target's interface is called, counted
// from 0. It is known before the guest is, so that rules can be there first.
func Device(fullID string, iface int) string {
	sum := sha256.Sum256([]byte(fullID))
	return fmt.Sprintf("mp%x-%d", sum[:4], iface)
}

// Compile turns a policy into rules. mac gives the address of an interface that
// the recipe leaves open.
func Compile(f *family.Family, host Host, mac func(fullID string, iface int) string) (Ruleset, error) {
	c := &compiler{family: f.Name, policy: f.Policy, host: host}
	macs := map[string]string{}
	for _, p := range f.Policy.Ports {
		id := f.Name + "-" + p.Target
		port := Port{Port: p, Dev: Device(id, p.Index), MAC: p.MAC}
		if port.MAC == "" {
			port.MAC = mac(id, p.Index)
		}
		if other, twice := macs[port.MAC]; twice {
			return Ruleset{}, fmt.Errorf("%s: %s and %s have one MAC address, %s", f.Policy.File, other, p.Target, port.MAC)
		}
		macs[port.MAC] = p.Target
		c.ports = append(c.ports, port)
	}
	c.own = c.subnets()
	c.tables()
	return Ruleset{Family: f.Name, Text: c.out.String(), Ports: c.ports, Lan: host.Subnets}, nil
}

// compiler writes the rules of one family.
type compiler struct {
	family string
	policy *family.Policy
	host   Host
	ports  []Port
	own    []netip.Prefix // the subnets of the family's networks
	out    strings.Builder
	depth  int
}

// line writes one line of the rule set.
func (c *compiler) line(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if text == "}" {
		c.depth--
	}
	c.out.WriteString(strings.Repeat("\t", c.depth) + text + "\n")
	if strings.HasSuffix(text, "{") {
		c.depth++
	}
}

// block writes a named block around what body writes.
func (c *compiler) block(head string, body func()) {
	c.line("%s {", head)
	body()
	c.line("}")
}

// Priorities (nft(8), STANDARD PRIORITY NAMES): before br_netfilter hands frames
// on at 0 (NF_BR_PRI_BRNF); a little before the filter chains of others.
const (
	bridgeEarly  = -300
	bridgeFilter = -200
	inetFilter   = -10
	sourceNAT    = 100
)

func (c *compiler) base(name, kind, hook string, priority int, body func()) {
	c.block("chain "+name, func() {
		c.line("type %s hook %s priority %d; policy accept;", kind, hook, priority)
		body()
	})
}

func (c *compiler) tables() {
	for _, kind := range []string{"bridge", "inet"} {
		c.line("table %s %s", kind, Table(c.family))
		c.line("delete table %s %s", kind, Table(c.family))
	}
	c.block("table bridge "+Table(c.family), c.bridgeTable)
	c.block("table inet "+Table(c.family), c.inetTable)
}

// refusals are the chains that count, log and drop.
func (c *compiler) refusals(names ...string) {
	for _, name := range names {
		c.line("counter %s { }", name)
	}
	for _, name := range names {
		c.block("chain refuse_"+name, func() {
			c.line("counter name %s", name)
			if c.policy.Log {
				c.line(`limit rate 5/second burst 10 packets log prefix "meros %s %s: "`, c.family, name)
			}
			c.line("drop")
		})
	}
}

// accept writes a rule that lets through what matches, counted, and logged if
// asked for. extra stands between the match and the verdict.
func (c *compiler) accept(a *family.Allow, match, extra string) {
	if a.Log {
		c.line(`%s limit rate 5/second burst 10 packets log prefix "meros %s line %d: "`, match, c.family, a.Line)
	}
	if extra != "" {
		extra += " "
	}
	c.line(`%s %scounter accept comment "line %d: %s to %s"`, match, extra, a.Line, a.From, a.To)
}

// version is an IP version with its words.
type version struct {
	ip, icmp, request, reply string
	arpa                     func(netip.Addr) bool
	lan, special             []netip.Prefix
	world                    string // what the internet lies in; "" is anywhere
}

func prefixes(words ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, w := range words {
		list = append(list, netip.MustParsePrefix(w))
	}
	return list
}

// The ranges that are no internet. lan: RFC 1918, 3927, 6598, 4193, 4291;
// special: IANA's special-purpose address registries, less what is documentation.
var versions = []version{
	{
		ip: "ip", icmp: "icmp", request: "echo-request", reply: "echo-reply", arpa: netip.Addr.Is4,
		lan:     prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"),
		special: prefixes("0.0.0.0/8", "127.0.0.0/8", "192.0.0.0/24", "198.18.0.0/15", "224.0.0.0/3"),
	},
	{
		ip: "ip6", icmp: "icmpv6", request: "echo-request", reply: "echo-reply", arpa: netip.Addr.Is6,
		lan:   prefixes("fc00::/7", "fe80::/10"),
		world: "2000::/3", // RFC 4291: all that is given out
	},
}

// addrs returns those of a version.
func (v version) addrs(all []netip.Addr) []netip.Addr {
	var list []netip.Addr
	for _, a := range all {
		if v.arpa(a) {
			list = append(list, a)
		}
	}
	return list
}

// hostAddrs returns the host's addresses on a port's network.
func (v version) hostAddrs(p Port) []netip.Addr {
	var list []netip.Addr
	for _, h := range p.Host {
		if v.arpa(h.Addr()) {
			list = append(list, h.Addr())
		}
	}
	return list
}

func (v version) only(all []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(all), func(p netip.Prefix) bool { return !v.arpa(p.Addr()) })
}

// subnets are the family's own.
func (c *compiler) subnets() []netip.Prefix {
	var list []netip.Prefix
	for _, s := range c.policy.Segments {
		for _, h := range s.Host {
			list = append(list, h.Masked())
		}
	}
	for _, p := range c.ports {
		for _, a := range p.Addrs {
			list = append(list, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return list
}

// beyond matches an address of lan or internet; side is saddr or daddr.
func (c *compiler) beyond(v version, side, peer string) string {
	own := v.only(c.own)
	lan := slices.Concat(v.lan, v.only(c.host.Subnets))
	if peer == family.PeerLAN {
		match := fmt.Sprintf("%s %s %s", v.ip, side, set(outermost(lan)))
		if len(own) > 0 {
			match += fmt.Sprintf(" %s %s != %s", v.ip, side, set(outermost(own)))
		}
		return match
	}
	match := fmt.Sprintf("%s %s != %s", v.ip, side, set(outermost(slices.Concat(lan, v.special, own))))
	if v.world != "" {
		match = fmt.Sprintf("%s %s %s %s", v.ip, side, v.world, match)
	}
	return match
}

// outermost drops the prefixes that lie in others: nft takes no overlaps.
func outermost(all []netip.Prefix) []netip.Prefix {
	var kept []netip.Prefix
	for i, p := range all {
		covered := false
		for j, o := range all {
			wider := o.Bits() < p.Bits() || o.Bits() == p.Bits() && j < i
			covered = covered || i != j && wider && o.Masked().Contains(p.Addr())
		}
		if !covered {
			kept = append(kept, p.Masked())
		}
	}
	return kept
}

// set writes values as an anonymous set.
func set[T fmt.Stringer](values []T) string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = v.String()
	}
	return "{ " + strings.Join(words, ", ") + " }"
}

// quoted writes names of interfaces as an anonymous set, each once.
func quoted(names []string) string {
	names = slices.Clone(names)
	slices.Sort(names)
	var words []string
	for _, n := range slices.Compact(names) {
		words = append(words, `"`+n+`"`)
	}
	return "{ " + strings.Join(words, ", ") + " }"
}

func (c *compiler) devices() []string {
	var names []string
	for _, p := range c.ports {
		names = append(names, p.Dev)
	}
	return names
}

func (c *compiler) bridges() []string {
	var names []string
	for _, s := range c.policy.Segments {
		names = append(names, s.Bridge)
	}
	return names
}

// portsOf returns the ports of a target.
func (c *compiler) portsOf(target string) []Port {
	return slices.DeleteFunc(slices.Clone(c.ports), func(p Port) bool { return p.Target != target })
}

// pair is two ports on one network.
type pair struct{ from, to Port }

func (c *compiler) pairs(from, to string) []pair {
	var list []pair
	for _, a := range c.portsOf(from) {
		for _, b := range c.portsOf(to) {
			if a.Segment == b.Segment {
				list = append(list, pair{a, b})
			}
		}
	}
	return list
}

// traffic matches the first packet of what a rule allows, one match for each
// protocol.
func (v version) traffic(a *family.Allow) map[string]string {
	out := map[string]string{}
	for _, proto := range a.Protos() {
		switch {
		case proto == family.ProtoICMP:
			out[proto] = v.icmp + " type " + v.request
		case len(a.Ports) > 0:
			out[proto] = proto + " dport " + set(merged(a.Ports))
		default:
			out[proto] = "meta l4proto " + proto
		}
	}
	return out
}

// merged joins ranges that touch: nft takes no overlaps.
func merged(ranges []family.PortRange) []family.PortRange {
	list := slices.Clone(ranges)
	slices.SortFunc(list, func(a, b family.PortRange) int { return int(a.First) - int(b.First) })
	out := list[:1]
	for _, r := range list[1:] {
		last := &out[len(out)-1]
		if int(r.First) > int(last.Last)+1 {
			out = append(out, r)
			continue
		}
		last.Last = max(last.Last, r.Last)
	}
	return out
}
