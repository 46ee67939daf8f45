package family

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

const (
	policyFile = "netfilter/policy.xml"
	assertFile = "netfilter/assert.xml"
)

var (
	protos      = map[string]string{"tcp": ProtoTCP, "udp": ProtoUDP, "icmp": ProtoICMP, "any": ProtoAny}
	protoWords  = "tcp, udp, icmp or any"
	peerNames   = []string{PeerHost, PeerLAN, PeerInternet, PeerFamily}
	allowAttrs  = []string{"from", "to", "via", "proto", "ports", "log"}
	portAttrs   = []string{"target", "network", "addr"}
	neverAttrs  = []string{"from", "to", "unless", "proto", "ports"}
	alwaysAttrs = []string{"from", "to", "via", "proto", "ports"}
)

// policyReader is a policy while it is read.
type policyReader struct {
	*buildFile // for its ways to read attributes
	loader     *loader
	policy     *Policy
	declared   []declaredPort
	elements   int  // of <allow> read so far
	whole      bool // the rest of the recipe has no faults, so that it can be judged by
}

// declaredPort is a <port> element.
type declaredPort struct {
	target, network string
	addrs           []netip.Addr
	line            int
	used            bool
}

// policy reads netfilter/policy.xml and assert.xml. It comes last, when targets
// and networks are known.
func (l *loader) policy() {
	if !l.there(policyFile) {
		if l.there(assertFile) {
			l.file(assertFile).fault(0, "", "there is no %s for it to hold of", policyFile)
		}
		return
	}
	f := l.file(policyFile)
	r := &policyReader{
		buildFile: &buildFile{file: f}, loader: l,
		policy: &Policy{File: f.path}, whole: len(l.report.faults) == 0,
	}
	data, ok := l.readDocument(f, policyFile)
	if !ok {
		return
	}
	root := readXML(data, f)
	if root == nil {
		return
	}
	r.read(root)
	if r.whole {
		r.wire()
		r.judge()
	}
	r.asserts()
	l.family.Policy = r.policy
}

// read takes the elements of a policy.
func (r *policyReader) read(root *node) {
	if root.name != "policy" {
		r.file.fault(root.line, "", "the root element must be <policy>, got <%s>", shorten(root.name))
		return
	}
	r.known(root, []string{"log"})
	r.noText(root)
	take(r.buildFile, root, "log", &r.policy.Log, oneOf(yesNo, "yes or no"))
	for _, t := range r.loader.family.Targets {
		if !IsTarget(t.Name) {
			r.file.fault(root.line, "policy", "the target %s has the name of a peer: give it another", t.Name)
			r.whole = false
		}
	}
	for _, n := range root.children {
		switch n.name {
		case "allow":
			r.allow(n)
		case "port":
			r.port(n)
		default:
			r.file.fault(n.line, "policy", "unknown element %s: %s", show(n.name), suggestion(n.name, []string{"allow", "port"}))
		}
	}
}

func (r *policyReader) leaf(n *node, attrs []string) {
	r.known(n, attrs)
	r.noText(n)
	r.noChildren(n)
}

// need takes an attribute that must be there and reports whether it was good.
func need[T any](r *policyReader, n *node, name string, into *T, parse func(string) (T, error)) bool {
	if _, ok := n.attr(name); !ok {
		r.file.fault(n.line, n.name, "%s is missing", name)
		return false
	}
	return take(r.buildFile, n, name, into, parse)
}

// targets are the names of the family's targets.
func (r *policyReader) targets() []string {
	var names []string
	for _, t := range r.loader.family.Targets {
		names = append(names, t.Name)
	}
	return names
}

// oneNamed takes one of these names, and says which is nearest else.
func oneNamed(kind string, known []string) func(string) (string, error) {
	return func(s string) (string, error) {
		if !slices.Contains(known, s) {
			return "", fmt.Errorf("must be %s (%s)", kind, suggestion(s, known))
		}
		return s, nil
	}
}

func (r *policyReader) peer() func(string) (string, error) {
	return oneNamed("a target, host, lan, internet or family", append(r.targets(), peerNames...))
}

// allow reads an <allow> and spells family out.
func (r *policyReader) allow(n *node) {
	r.leaf(n, allowAttrs)
	r.elements++
	a := Allow{Line: n.line, Element: r.elements}
	ok := need(r, n, "from", &a.From, r.peer())
	ok = need(r, n, "to", &a.To, r.peer()) && ok
	if _, given := n.attr("via"); given {
		ok = take(r.buildFile, n, "via", &a.Via, oneNamed("a target", r.targets())) && ok
	}
	ok = r.traffic(n, &a.Proto, &a.Ports) && ok
	take(r.buildFile, n, "log", &a.Log, oneOf(yesNo, "yes or no"))
	if !ok {
		r.whole = false
		return
	}
	if text := contradiction(a); text != "" {
		r.file.fault(n.line, "allow", "%s", text)
		r.whole = false
		return
	}
	for _, from := range r.spell(a.From) {
		for _, to := range r.spell(a.To) {
			if from == to || from == a.Via {
				continue
			}
			one := a
			one.From, one.To = from, to
			r.policy.Allows = append(r.policy.Allows, &one)
		}
	}
}

func (r *policyReader) spell(peer string) []string {
	if peer == PeerFamily {
		return r.targets()
	}
	return []string{peer}
}

// contradiction says why a rule cannot mean anything.
func contradiction(a Allow) string {
	switch {
	case a.From == a.To && a.From != PeerFamily:
		return "from and to are the same"
	case !IsTarget(a.From) && a.From != PeerFamily && !IsTarget(a.To) && a.To != PeerFamily:
		return fmt.Sprintf("from %s to %s passes no guest: a family's policy says nothing of it", a.From, a.To)
	case a.Via == "":
		return ""
	case a.Via == a.From || a.Via == a.To:
		return "via is an end of it itself"
	case !External(a.To) || !IsTarget(a.From) && a.From != PeerFamily:
		return "via is for what goes from a target to lan or internet"
	}
	return ""
}

// traffic reads proto and ports.
func (r *policyReader) traffic(n *node, proto *string, ports *[]PortRange) bool {
	ok := true
	if _, given := n.attr("proto"); given {
		ok = take(r.buildFile, n, "proto", proto, oneOf(protos, protoWords))
	}
	at, given := n.attr("ports")
	if !given {
		return ok
	}
	if *proto != ProtoTCP && *proto != ProtoUDP && ok {
		r.file.fault(at.line, n.name+": ports", "ports belong to tcp or udp: add proto")
		return false
	}
	return take(r.buildFile, n, "ports", ports, portRanges) && ok
}

// portRanges reads "22,80,8000-8010".
func portRanges(s string) ([]PortRange, error) {
	var ranges []PortRange
	for _, word := range strings.FieldsFunc(s, func(c rune) bool { return c == ',' || c == ' ' }) {
		first, last, isRange := strings.Cut(word, "-")
		if !isRange {
			last = first
		}
		from, err1 := number(maxPort)(first)
		to, err2 := number(maxPort)(last)
		if err1 != nil || err2 != nil || from > to {
			return nil, errors.New("must be ports from 1 to 65535, such as 22,8000-8010")
		}
		ranges = append(ranges, PortRange{uint16(from), uint16(to)})
	}
	if len(ranges) == 0 {
		return nil, errors.New("must name a port")
	}
	return ranges, nil
}

func (p PortRange) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

// port reads the addresses of one interface.
func (r *policyReader) port(n *node) {
	r.leaf(n, portAttrs)
	p := declaredPort{line: n.line}
	ok := need(r, n, "target", &p.target, oneNamed("a target", r.targets()))
	ok = need(r, n, "network", &p.network, r.networkName) && ok
	ok = need(r, n, "addr", &p.addrs, addresses) && ok
	if !ok {
		r.whole = false
		return
	}
	r.declared = append(r.declared, p)
}

// networkName takes a network's full id, or what is left of it behind the
// family's name.
func (r *policyReader) networkName(s string) (string, error) {
	var known []string
	for _, n := range r.loader.family.Networks {
		if n.FullID == s || n.FullID == r.loader.family.Name+"_"+s {
			return n.FullID, nil
		}
		known = append(known, n.FullID)
	}
	return "", fmt.Errorf("must be a network of the family (%s)", suggestion(s, known))
}

func addresses(s string) ([]netip.Addr, error) {
	var addrs []netip.Addr
	for _, word := range strings.Fields(s) {
		a, err := address(word)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, a)
	}
	if len(addrs) == 0 {
		return nil, errors.New("must name an address")
	}
	return addrs, nil
}
