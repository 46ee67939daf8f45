package graph

import (
	"encoding/xml"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"meros/internal/family"
)

// kind is what a node stands for.
type kind int

const (
	world kind = iota // the host, the LAN, the internet
	network
	target
)

// node is a box of the picture.
type node struct {
	id     string // letters, digits and _ only
	kind   kind
	title  string
	lines  []string // below the title
	border string   // trust colour, #rrggbb or ""
	host   bool     // a network that the host is on
	routed bool     // a network that the host forwards for
	column int      // steps from the outside
	row    int
	x, y   int
	w, h   int
}

// link is an interface: of a target, or of the host, on a network.
type link struct {
	network, end *node
	label        string // the address, if it is known

	networkY, endY int // where it meets each
}

// allow is a line of the policy.
type allow struct {
	from, to *node
	via      *node
	text     string
}

// Graph is a family ready to be drawn.
type Graph struct {
	family string
	nodes  []*node
	links  []link
	allows []allow
	policy bool
}

// domainXML and networkXML are what a picture needs of libvirt's documents.
type domainXML struct {
	Interfaces []struct {
		Source struct {
			Network string `xml:"network,attr"`
		} `xml:"source"`
	} `xml:"devices>interface"`
}

type networkXML struct {
	Name   string `xml:"name"`
	Bridge struct {
		Name string `xml:"name,attr"`
	} `xml:"bridge"`
	Forward *struct {
		Mode string `xml:"mode,attr"`
	} `xml:"forward"`
	IPs []struct {
		Address string `xml:"address,attr"`
		Netmask string `xml:"netmask,attr"`
		Prefix  int    `xml:"prefix,attr"`
	} `xml:"ip"`
}

const networkVariable = "$NETWORK_FULL_ID"

// New reads a family's documents.
func New(f *family.Family) (*Graph, error) {
	g := &Graph{family: f.Name, policy: f.Policy != nil}
	hosts := map[*node]netip.Prefix{}
	for _, n := range f.Networks {
		if err := g.addNetwork(n, hosts); err != nil {
			return nil, err
		}
	}
	for _, t := range f.Targets {
		if err := g.addTarget(f, t, hosts); err != nil {
			return nil, err
		}
	}
	g.addWorld()
	if f.Policy != nil {
		for _, a := range f.Policy.Allows {
			g.addAllow(a)
		}
	}
	return g, nil
}

func decode(file string, into any) error {
	content, err := os.ReadFile(file)
	if err == nil {
		err = xml.Unmarshal(content, into)
	}
	if err != nil {
		return fmt.Errorf("draw %s: %w", file, err)
	}
	return nil
}

func (g *Graph) addNetwork(n *family.Network, hosts map[*node]netip.Prefix) error {
	var doc networkXML
	if err := decode(n.File, &doc); err != nil {
		return err
	}
	name := strings.ReplaceAll(strings.TrimSpace(doc.Name), networkVariable, n.FullID)
	if name == "" {
		name = n.FullID
	}
	at := &node{kind: network, title: name, id: idOf("net", name)}
	if bridge := strings.ReplaceAll(doc.Bridge.Name, networkVariable, n.FullID); bridge != "" && bridge != name {
		at.lines = append(at.lines, "bridge "+bridge)
	}
	for _, ip := range doc.IPs {
		p, ok := prefixOf(ip.Address, ip.Netmask, ip.Prefix)
		if !ok {
			continue
		}
		at.host, hosts[at] = true, p
		at.lines = append(at.lines, p.Masked().String())
	}
	how := "isolated: no way out by the host"
	if !at.host {
		how = "the host is not on it"
	}
	if doc.Forward != nil {
		mode := doc.Forward.Mode
		if mode == "" {
			mode = "nat" // libvirt's default: formatnetwork
		}
		at.routed, how = true, "forwarded: "+mode
	}
	at.lines = append(at.lines, how)
	g.nodes = append(g.nodes, at)
	return nil
}

func prefixOf(address, netmask string, bits int) (netip.Prefix, bool) {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Prefix{}, false
	}
	if mask, err := netip.ParseAddr(netmask); bits == 0 && err == nil {
		for _, b := range mask.AsSlice() {
			for ; b&0x80 != 0; b <<= 1 {
				bits++
			}
		}
	}
	return netip.PrefixFrom(addr, bits), bits > 0 && bits <= addr.BitLen()
}

func (g *Graph) addTarget(f *family.Family, t *family.Target, hosts map[*node]netip.Prefix) error {
	at := &node{kind: target, title: t.Name, id: idOf("target", t.Name), border: t.Border}
	switch {
	case t.Imported:
		at.lines = append(at.lines, "image brought by the user")
	default:
		at.lines = append(at.lines, strings.TrimSpace(t.Distro+" "+t.Release))
	}
	if t.HasSession() {
		at.lines = append(at.lines, fmt.Sprintf("%s, port %d", t.User, t.SSHPort))
	}
	g.nodes = append(g.nodes, at)
	if t.DomainFile == "" {
		return nil
	}
	var doc domainXML
	if err := decode(t.DomainFile, &doc); err != nil {
		return err
	}
	for i, iface := range doc.Interfaces {
		name := iface.Source.Network
		if len(f.Networks) == 1 {
			name = strings.ReplaceAll(name, networkVariable, f.Networks[0].FullID)
		}
		to := g.networkNamed(name)
		if to == nil {
			continue
		}
		g.links = append(g.links, link{network: to, end: at, label: addressOn(f, t, i, to, hosts[to])})
	}
	return nil
}

// networkNamed is the node of a network, made for one that is not the family's.
func (g *Graph) networkNamed(name string) *node {
	if name == "" {
		return nil
	}
	for _, n := range g.nodes {
		if n.kind == network && n.title == name {
			return n
		}
	}
	n := &node{kind: network, title: name, id: idOf("net", name), lines: []string{"not of this family"}, host: true, routed: true}
	g.nodes = append(g.nodes, n)
	return n
}

// addressOn is what a target has on a network: by the policy, else by the build
// file if it is of the network's subnet, or the network has none.
func addressOn(f *family.Family, t *family.Target, iface int, n *node, host netip.Prefix) string {
	if f.Policy != nil {
		for _, p := range f.Policy.PortsOf(t.Name) {
			if p.Index == iface {
				return joined(p.Addrs)
			}
		}
	}
	if t.Addr.IsValid() && (!host.IsValid() || host.Masked().Contains(t.Addr)) {
		return t.Addr.String()
	}
	return ""
}

func joined[T fmt.Stringer](list []T) string {
	var words []string
	for _, v := range list {
		words = append(words, v.String())
	}
	return strings.Join(words, ", ")
}

// addWorld adds the host, and the internet where the host forwards to it.
func (g *Graph) addWorld() {
	var host, out *node
	for _, n := range slices.Clone(g.nodes) {
		if n.kind != network || !n.host {
			continue
		}
		if host == nil {
			host = &node{kind: world, title: "this host", id: "host"}
			g.nodes = append(g.nodes, host)
		}
		g.links = append(g.links, link{network: n, end: host})
		if n.routed && out == nil {
			out = &node{kind: world, title: "internet", id: "internet"}
			g.nodes = append(g.nodes, out)
		}
	}
}

func (g *Graph) find(peer string) *node {
	title := map[string]string{family.PeerHost: "this host", family.PeerInternet: "internet", family.PeerLAN: "LAN"}[peer]
	for _, n := range g.nodes {
		if n.kind == target && n.title == peer || n.kind == world && n.title == title {
			return n
		}
	}
	if title == "" {
		return nil
	}
	n := &node{kind: world, title: title, id: idOf("world", peer)}
	g.nodes = append(g.nodes, n)
	return n
}

// addAllow draws a line of the policy; those between the same two are one arrow.
func (g *Graph) addAllow(a *family.Allow) {
	line := allow{from: g.find(a.From), to: g.find(a.To), text: fmt.Sprintf("%s → %s", a.From, a.To)}
	if a.Via != "" {
		line.via = g.find(a.Via)
		line.text += " by way of " + a.Via
	}
	what := a.Traffic()
	line.text += ": " + what
	if line.from == nil || line.to == nil {
		return
	}
	same := slices.IndexFunc(g.allows, func(b allow) bool { return b.from == line.from && b.to == line.to && b.via == line.via })
	if same >= 0 {
		g.allows[same].text += "; " + what
		return
	}
	g.allows = append(g.allows, line)
}

// idOf is a name for DOT and Mermaid, which take letters, digits and _.
func idOf(kind, name string) string {
	return kind + "_" + strings.Map(func(r rune) rune {
		if r < 0x80 && (r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z') {
			return r
		}
		return '_'
	}, name)
}
