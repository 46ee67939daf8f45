package family

import (
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// bridgeForm is what a bridge may be called where rules name it: the kernel
// takes more, and nft(8) has a meaning for some of it.
var bridgeForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$`)

// routedMode is the one forward mode by which the policy alone says what the host
// passes on. In the others libvirt has rules of its own (formatnetwork): nat gives the
// host's address to what goes to lan as well, and neither nat nor route lets in all
// that a policy may allow; bridge and the like pass by the host's filter.
const routedMode = "open"

// wire finds out which port of which target is on which bridge, with which
// addresses. What it cannot know is a fault: it could not be enforced.
func (r *policyReader) wire() {
	segments := map[string]*Segment{} // by libvirt's name
	byID := map[string]*Segment{}
	for _, n := range r.loader.family.Networks {
		if s := r.segment(n); s != nil {
			segments[s.Network], byID[n.FullID] = s, s
			r.policy.Segments = append(r.policy.Segments, s)
		}
	}
	for _, t := range r.loader.family.Targets {
		r.wireTarget(t, segments)
	}
	for _, d := range r.declared {
		if !d.used {
			r.file.fault(d.line, "port", "%s has no interface on %s", d.target, d.network)
			r.whole = false
		}
	}
	seen := map[netip.Addr]*Port{}
	for _, p := range r.policy.Ports {
		for _, a := range p.Addrs {
			if o := seen[a]; o != nil && o != p {
				r.file.fault(0, "", "%s is the address of %s and of %s", a, o.Target, p.Target)
			}
			if slices.ContainsFunc(p.Host, func(h netip.Prefix) bool { return h.Addr() == a }) {
				r.file.fault(0, "", "%s is the address of %s and of the host on %s", a, p.Target, p.Network)
			}
			seen[a] = p
		}
	}
}

// document reads a libvirt document again, of which libvirt() has found that it
// is well formed.
func (r *policyReader) document(file string) (*file, *node) {
	rel, err := filepath.Rel(r.loader.dir, file)
	if err != nil {
		return nil, nil
	}
	f := r.loader.file(filepath.ToSlash(rel))
	data, ok := r.loader.readDocument(f, filepath.ToSlash(rel))
	if !ok {
		return f, nil
	}
	return f, readXML(data, f)
}

// segment reads what rules need to know of a network.
func (r *policyReader) segment(n *Network) *Segment {
	f, root := r.document(n.File)
	if root == nil {
		return nil
	}
	s := &Segment{Network: n.FullID}
	if name := nodeText(root.child("name")); name != "" {
		s.Network = strings.ReplaceAll(name, networkVariable, n.FullID)
	}
	bridge, _ := root.child("bridge").attr("name")
	s.Bridge = strings.ReplaceAll(bridge.value, networkVariable, n.FullID)
	if !bridgeForm.MatchString(s.Bridge) {
		f.fault(root.line, "network: bridge", "a family with a policy names its bridges, in letters, digits, _, - and ., got %s", show(s.Bridge))
		r.whole = false
	}
	if forward := root.child("forward"); forward != nil {
		mode, given := forward.attr("mode")
		if !given {
			mode.value = "nat" // libvirt's default: formatnetwork
		}
		s.Routed = mode.value == routedMode
		if !s.Routed {
			f.fault(forward.line, "network: forward", "a family with a policy has mode open, or no <forward>, got %s: with it libvirt has rules of its own, or the host's filter is passed by", show(mode.value))
			r.whole = false
		}
	}
	for _, c := range root.children {
		if p, ok := hostPrefix(c); c.name == "ip" && ok {
			s.Host = append(s.Host, p)
		}
	}
	return s
}

// hostPrefix reads <ip address=… prefix=… or netmask=…>. Without either it is
// the class's (formatnetwork), which is not leant on: a host of its own.
func hostPrefix(n *node) (netip.Prefix, bool) {
	a, _ := n.attr("address")
	addr, err := netip.ParseAddr(a.value)
	if err != nil {
		return netip.Prefix{}, false
	}
	bits := addr.BitLen()
	if p, ok := n.attr("prefix"); ok {
		bits, err = strconv.Atoi(p.value)
	} else if m, ok := n.attr("netmask"); ok {
		ones, size := net.IPMask(net.ParseIP(m.value).To4()).Size()
		if size == 32 {
			bits = ones
		}
	}
	if err != nil || bits < 0 || bits > addr.BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr, bits), true
}

func nodeText(n *node) string {
	if n == nil {
		return ""
	}
	var b strings.Builder
	for _, t := range n.texts {
		b.WriteString(t.value)
	}
	return strings.TrimSpace(b.String())
}

// wireTarget reads the interfaces of a target's domain document.
func (r *policyReader) wireTarget(t *Target, segments map[string]*Segment) {
	if t.DomainFile == "" {
		return
	}
	f, root := r.document(t.DomainFile)
	if root == nil {
		return
	}
	past(f, root)
	if root.child("devices") == nil {
		return
	}
	index := 0
	for _, n := range root.child("devices").children {
		if n.name != "interface" {
			continue
		}
		r.wirePort(f, n, &Port{Target: t.Name, Index: index}, segments)
		index++
	}
}

func (r *policyReader) wirePort(f *file, n *node, p *Port, segments map[string]*Segment) {
	source := n.child("source")
	name, _ := source.attr("network")
	if kind, _ := n.attr("type"); kind.value != "network" {
		f.fault(n.line, "interface", "type %s passes by the policy: a family with one has networks of its own only", show(kind.value))
		r.whole = false
		return
	}
	network := name.value
	if len(r.loader.family.Networks) == 1 {
		network = strings.ReplaceAll(network, networkVariable, r.loader.family.Networks[0].FullID)
	}
	p.Segment = segments[network]
	if p.Segment == nil {
		f.fault(n.line, "interface: source", "the network %s is none of the family's: what is on it would pass by the policy", show(network))
		r.whole = false
		return
	}
	if mac, ok := n.child("mac").attr("address"); ok {
		hw, err := net.ParseMAC(mac.value)
		if err != nil || len(hw) != 6 || hw[0]&1 != 0 {
			f.fault(mac.line, "interface: mac", "must be the address of one network card, got %s", show(mac.value))
			r.whole = false
			return
		}
		p.MAC = hw.String()
	}
	p.Addrs = r.addrsOf(p)
	if len(p.Addrs) == 0 {
		f.add(Fault{
			File: f.path, Line: n.line, Where: "interface", Text: "no address of " + p.Target + " on " + p.Network + " is known, so it could not send anything",
			advice: `say which it has in ` + r.file.path + `: <port target="` + p.Target + `" network="` + p.Network + `" addr="…"/>`,
		})
		r.whole = false
		return
	}
	r.policy.Ports = append(r.policy.Ports, p)
}

// addrsOf returns the addresses of a port: those of <port>, else the build
// file's if it is of the network's subnet or the network has none.
func (r *policyReader) addrsOf(p *Port) []netip.Addr {
	var addrs []netip.Addr
	for i := range r.declared {
		d := &r.declared[i]
		if d.target == p.Target && (d.network == p.Network) {
			addrs, d.used = append(addrs, d.addrs...), true
		}
	}
	own := r.loader.family.Target(p.Target).Addr
	if len(addrs) > 0 || !own.IsValid() {
		return addrs
	}
	inside := func(h netip.Prefix) bool { return h.Masked().Contains(own) }
	if len(p.Host) == 0 || slices.ContainsFunc(p.Host, inside) {
		return []netip.Addr{own}
	}
	return nil
}
