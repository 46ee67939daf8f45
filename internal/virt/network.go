package virt

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"
)

// NetworkDoc is a <network> document made ready for libvirt, with what it takes
// of the host.
type NetworkDoc struct {
	Name    string
	XML     string
	Bridge  string         // "" when libvirt picks a name
	Subnets []netip.Prefix // in which the host gets an address
	Opens   []string       // IP versions, ipv4 and ipv6, that libvirt has the whole host forward for it
	Recipe  string         // what the recipe says of it, as a hash
}

// NetworkDocument fills the <network> document of a recipe. fullID becomes its
// name where it gives none.
func NetworkDocument(xml []byte, fullID string, owner Owner) (NetworkDoc, error) {
	doc, err := parseDocument(xml, "network")
	if err != nil {
		return NetworkDoc{}, err
	}
	root := doc.Root()
	name := root.SelectElement("name")
	if name == nil {
		name = etree.NewElement("name")
		root.InsertChildAt(0, name)
	}
	if isVariable(name.Text(), varNetwork) {
		name.SetText(fullID)
	}
	full := strings.TrimSpace(name.Text())
	v := values{varNetwork: full, varTarget: "", varImage: "", varKernel: "", varInitrd: ""}
	if err := v.substitute(root); err != nil {
		return NetworkDoc{}, err
	}
	owner.Target = ""
	owner.markBridge(root)
	mark := Mark{Recipe: hashOf(fullID, xml)}
	owner.stamp(root, mark)
	n := describeTakes(root)
	n.Name = strings.TrimSpace(name.Text())
	n.Recipe = mark.Recipe
	n.XML, err = text(doc)
	return n, err
}

// hashOf is a document of the recipe in one word.
func hashOf(fullID string, xml []byte) string {
	sum := sha256.Sum256(append([]byte(fullID+"\n"), xml...))
	return hex.EncodeToString(sum[:8])
}

// describeTakes reads out of a network's document what it takes of the host.
func describeTakes(root *etree.Element) NetworkDoc {
	var n NetworkDoc
	if bridge := root.SelectElement("bridge"); bridge != nil {
		n.Bridge = bridge.SelectAttrValue("name", "")
	}
	for _, ip := range root.SelectElements("ip") {
		if p, ok := subnetOf(ip); ok {
			n.Subnets = append(n.Subnets, p)
		}
	}
	n.Opens = opens(root)
	return n
}

// opens says which IP versions libvirt forwards, on all links, for a network: those
// that it has an address of, if its <forward> is a way through the host.
func opens(root *etree.Element) []string {
	forward := root.SelectElement("forward")
	if forward == nil || !slices.Contains([]string{"nat", "route", "open"}, forward.SelectAttrValue("mode", "nat")) {
		return nil
	}
	var versions []string
	for _, ip := range root.SelectElements("ip") {
		addr, err := netip.ParseAddr(ip.SelectAttrValue("address", ""))
		if err != nil {
			continue
		}
		version := map[bool]string{true: "ipv4", false: "ipv6"}[addr.Is4()]
		if !slices.Contains(versions, version) {
			versions = append(versions, version)
		}
	}
	return versions
}

// takes returns what a running network of libvirt's holds.
func (n Network) takes() NetworkDoc {
	doc := etree.NewDocument()
	if doc.ReadFromString(n.XML) != nil || doc.Root() == nil {
		return NetworkDoc{Name: n.Name}
	}
	d := describeTakes(doc.Root())
	d.Name = n.Name
	return d
}

// Joins returns the names of the libvirt networks that a domain is on.
func (d Domain) Joins() []string {
	doc := etree.NewDocument()
	if doc.ReadFromString(d.XML) != nil {
		return nil
	}
	var names []string
	for _, source := range doc.FindElements("/domain/devices/interface/source") {
		if name := source.SelectAttrValue("network", ""); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// Opens reports whether a disk of the domain is that file.
func (d Domain) Opens(file string) bool {
	doc := etree.NewDocument()
	if doc.ReadFromString(d.XML) != nil {
		return true // nobody knows
	}
	for _, source := range doc.FindElements("/domain/devices/disk//source") {
		if source.SelectAttrValue("file", "") == file {
			return true
		}
	}
	return false
}

// subnetOf reads <ip address=… prefix=…> or netmask=…. Without either, libvirt
// takes the address's class, which no recipe should lean on: it is not judged.
func subnetOf(ip *etree.Element) (netip.Prefix, bool) {
	addr, err := netip.ParseAddr(ip.SelectAttrValue("address", ""))
	if err != nil {
		return netip.Prefix{}, false
	}
	if bits, err := strconv.Atoi(ip.SelectAttrValue("prefix", "")); err == nil {
		p, err := addr.Prefix(bits)
		return p, err == nil
	}
	mask, err := netip.ParseAddr(ip.SelectAttrValue("netmask", ""))
	if err != nil || !mask.Is4() || !addr.Is4() {
		return netip.Prefix{}, false
	}
	bits := 0
	for _, b := range mask.As4() {
		for ; b&0x80 != 0; b <<= 1 {
			bits++
		}
	}
	p, err := addr.Prefix(bits)
	return p, err == nil
}

// Clashes returns what is wrong with starting networks on this host: a bridge or
// a subnet that is taken, each with its owner. running are the networks that
// libvirt runs, the ones that are to start not among them.
func Clashes(start []NetworkDoc, running []Network, host HostNet) []error {
	var faults []error
	var taken []claim
	for _, n := range running {
		d := n.takes()
		taken = append(taken, claim{fmt.Sprintf("the libvirt network %s of %s", n.Name, n.Owner.Describe()), d.Bridge, d.Subnets})
	}
	// A link of a running network is in both lists; libvirt knows it better.
	for _, link := range host.Links {
		taken = append(taken, claim{fmt.Sprintf("the link %s of this host", link), link, nil})
	}
	for _, r := range host.Routes {
		taken = append(taken, claim{fmt.Sprintf("the route %s on %s of this host", r.Subnet, r.Link), "", []netip.Prefix{r.Subnet}})
	}
	for _, a := range host.Addrs {
		taken = append(taken, claim{fmt.Sprintf("the address %s on %s of this host", a.Subnet.Addr(), a.Link), "", []netip.Prefix{a.Subnet}})
	}
	for _, n := range start {
		if c := firstClash(n, taken); c != nil {
			faults = append(faults, fmt.Errorf("network %s: %w", n.Name, c))
		}
		taken = append(taken, claim{"the network " + n.Name + " of this family", n.Bridge, n.Subnets})
	}
	return faults
}

// claim is what somebody has taken.
type claim struct {
	by      string
	bridge  string
	subnets []netip.Prefix
}

func firstClash(n NetworkDoc, taken []claim) error {
	for _, c := range taken {
		if n.Bridge != "" && n.Bridge == c.bridge {
			return fmt.Errorf("its bridge %s is taken by %s", n.Bridge, c.by)
		}
		for _, own := range n.Subnets {
			for _, other := range c.subnets {
				if own.Overlaps(other) {
					return fmt.Errorf("its subnet %s is taken by %s", own, c.by)
				}
			}
		}
	}
	return nil
}
