package lint

import (
	"encoding/xml"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"meros/internal/family"
)

// policy finds families without one, and rules that allow more than they need.
func (l *linter) policy() {
	p := l.family.Policy
	if p == nil {
		if len(l.family.Networks) > 0 {
			l.add("netfilter/policy.xml", 0, "is not there", "nothing says who may talk to whom, so that meros isolates nothing: guests of one network reach each other and the host",
				"write one: docs/policy.md; `meros prove` then shows that it holds")
		}
		return
	}
	seen := map[int]bool{}
	for _, a := range p.Allows {
		if seen[a.Element] {
			continue
		}
		var what string
		switch {
		case a.To == family.PeerHost && len(a.Ports) == 0 && a.Proto != family.ProtoICMP:
			what = fmt.Sprintf("lets %s reach every service of the host", a.From)
		case family.External(a.From) && len(a.Ports) == 0:
			what = fmt.Sprintf("lets %s reach every port of %s", a.From, a.To)
		case a.To == family.PeerLAN && len(a.Ports) == 0:
			what = fmt.Sprintf("lets %s reach every machine and port of your own network", a.From)
		default:
			continue
		}
		seen[a.Element] = true
		l.add("netfilter/policy.xml", a.Line, what, "a guest is taken to be hostile: what it may reach, it will try", `name what is needed: proto="tcp" ports="…"`)
	}
	if len(p.Assertions) == 0 {
		l.add("netfilter/assert.xml", 0, "is not there", "a later change of the policy may allow what must never be, and nobody notices",
			`write down what must hold: <assert><never from="…" to="…"/></assert>`)
	}
}

type networkXML struct {
	IPs []struct {
		Address string `xml:"address,attr"`
		Netmask string `xml:"netmask,attr"`
		Prefix  int    `xml:"prefix,attr"`
	} `xml:"ip"`
}

// prefixesOf returns the host's addresses on a network, with their subnets.
func prefixesOf(file string) []netip.Prefix {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var n networkXML
	if xml.Unmarshal(content, &n) != nil {
		return nil // family.Load has said why
	}
	var list []netip.Prefix
	for _, ip := range n.IPs {
		addr, err := netip.ParseAddr(ip.Address)
		if err != nil {
			continue
		}
		bits := ip.Prefix
		if mask := net.ParseIP(ip.Netmask).To4(); mask != nil {
			bits, _ = net.IPMask(mask).Size()
		}
		if bits > 0 && bits <= addr.BitLen() {
			list = append(list, netip.PrefixFrom(addr, bits))
		}
	}
	return list
}

// gateways finds targets whose way out is at an address that nobody has.
func (l *linter) gateways() {
	have := map[netip.Addr]bool{}
	var subnets []netip.Prefix
	for _, n := range l.family.Networks {
		for _, p := range prefixesOf(n.File) {
			have[p.Addr()] = true
			subnets = append(subnets, p.Masked())
		}
	}
	for _, t := range l.family.Targets {
		have[t.Addr] = true
	}
	if p := l.family.Policy; p != nil {
		for _, port := range p.Ports {
			for _, a := range port.Addrs {
				have[a] = true
			}
		}
	}
	for _, t := range l.family.Targets {
		if !t.Gateway.IsValid() || have[t.Gateway] {
			continue
		}
		isNetwork := false
		for _, s := range subnets {
			isNetwork = isNetwork || s.Addr() == t.Gateway
		}
		if isNetwork || len(subnets) == 0 {
			continue
		}
		rel, err := filepath.Rel(l.family.Dir, t.BuildFile)
		if err != nil {
			rel = t.BuildFile
		}
		l.add(filepath.ToSlash(rel), 0, fmt.Sprintf("its network_addr %s is the address of no target and of no network", t.Gateway),
			"the guest's default route leads nowhere, and sessions may take another way than meant", "give the address of the host on that network, or of the gateway target")
	}
}

// ownRules are the words by which a file of a recipe sets packet-filter rules of a
// guest's own.
var ownRules = regexp.MustCompile(`\b(nft|nftables|iptables|ip6tables|iptables-restore|ufw|firewalld|shorewall)\b|hook\s+forward`)

// hops finds targets that others send through and that have no rules of their own.
func (l *linter) hops() {
	for _, t := range l.family.Targets {
		users := l.sendThrough(t)
		if len(users) == 0 || !t.Rootfs || l.hasRules(t) {
			continue
		}
		rel, err := filepath.Rel(l.family.Dir, t.BuildFile)
		if err != nil {
			rel = t.BuildFile
		}
		l.add(filepath.ToSlash(rel), 0, fmt.Sprintf("is the next hop of %s and has no packet-filter rules of its own", strings.Join(users, ", ")),
			"what it is handed it passes on, or not, as its kernel's defaults have it: one layer that isolates instead of two",
			fmt.Sprintf("lay rules over it, such as rootfs/%s/includes.chroot/etc/nftables.conf, that drop what it is not there for", t.Name))
	}
}

// sendThrough lists the targets whose next hop t is.
func (l *linter) sendThrough(t *family.Target) []string {
	var users []string
	add := func(name string) {
		if name != t.Name && !slices.Contains(users, name) {
			users = append(users, name)
		}
	}
	for _, o := range l.family.Targets {
		if o.Gateway.IsValid() && o.Gateway == t.Addr {
			add(o.Name)
		}
	}
	if l.family.Policy != nil {
		for _, a := range l.family.Policy.Allows {
			if a.Via == t.Name {
				add(a.From)
			}
		}
	}
	return users
}

// hasRules reports whether any file that is laid over a target, or run in it, is about
// packet-filter rules.
func (l *linter) hasRules(t *family.Target) bool {
	found := false
	for _, name := range []string{"common", t.Name} {
		_ = filepath.WalkDir(filepath.Join(l.family.Dir, "rootfs", name), func(path string, d fs.DirEntry, err error) error {
			if err != nil || found || !d.Type().IsRegular() {
				return nil // what cannot be read has no say
			}
			if info, err := d.Info(); err == nil && info.Size() <= maxRead {
				content, err := os.ReadFile(path)
				found = err == nil && ownRules.Match(content)
			}
			return nil
		})
	}
	return found
}

// subnets finds networks that cannot be up together.
func (l *linter) subnets(others []*family.Family) {
	type claim struct {
		who    string
		prefix netip.Prefix
	}
	var taken []claim
	for _, f := range others {
		for _, n := range f.Networks {
			for _, p := range prefixesOf(n.File) {
				taken = append(taken, claim{"the network " + n.FullID + " of " + f.Name, p})
			}
		}
	}
	for _, n := range l.family.Networks {
		for _, p := range prefixesOf(n.File) {
			for _, c := range taken {
				if c.prefix.Overlaps(p) {
					l.add("libvirt/"+filepath.Base(n.File), 0, fmt.Sprintf("its subnet %s is also that of %s", p.Masked(), c.who),
						"the two cannot run at the same time, and addresses do not tell them apart", "give it another subnet")
				}
			}
			taken = append(taken, claim{"the network " + n.FullID, p})
		}
	}
}
