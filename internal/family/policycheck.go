package family

import (
	"fmt"
	"net/netip"
	"slices"
)

// judge finds rules without a path and rules that others make idle. A rule that
// names family is at fault only if none of the pairs it stands for is good.
func (r *policyReader) judge() {
	if !r.whole {
		return
	}
	whys, good := map[int]string{}, map[int]bool{} // by element: one line may hold two
	var kept []*Allow
	for _, a := range r.policy.Allows {
		if why := r.noPath(a); why != "" {
			whys[a.Element] = why
			continue
		}
		at := slices.IndexFunc(kept, func(k *Allow) bool { return k.Covers(a) })
		if at >= 0 {
			if _, ok := whys[a.Element]; !ok {
				whys[a.Element] = fmt.Sprintf("is never reached: line %d allows it already", kept[at].Line)
			}
			continue
		}
		kept, good[a.Element] = append(kept, a), true
	}
	seen := map[int]bool{}
	for _, a := range r.policy.Allows {
		if why, bad := whys[a.Element]; bad && !good[a.Element] && !seen[a.Element] {
			r.file.fault(a.Line, "allow", "%s", why)
			seen[a.Element] = true
		}
	}
	r.policy.Allows = kept
}

// noPath says why nothing that a rule allows could ever arrive.
func (r *policyReader) noPath(a *Allow) string {
	p := r.policy
	if a.Via != "" {
		if len(p.Links(a.From, a.Via)) == 0 {
			return fmt.Sprintf("there is no path: %s and %s are on no network together", a.From, a.Via)
		}
		return ""
	}
	inner, outer := a.From, a.To
	if !IsTarget(inner) {
		inner, outer = a.To, a.From
	}
	switch {
	case IsTarget(outer):
		if len(p.Links(inner, outer)) == 0 {
			return fmt.Sprintf("there is no path: %s and %s are on no network together", a.From, a.To)
		}
	case outer == PeerHost:
		if !slices.ContainsFunc(p.PortsOf(inner), func(q *Port) bool { return len(q.Host) > 0 }) {
			return fmt.Sprintf("there is no path: the host has no address on a network of %s", inner)
		}
	default:
		if !slices.ContainsFunc(p.PortsOf(inner), (*Port).Forwarded) {
			return fmt.Sprintf(`there is no path: no network of %s has <forward mode="open"/> and an IPv4 address of the host; or say via="…"`, inner)
		}
	}
	return ""
}

// Forwarded reports whether the host passes IPv4 between this port and the world.
// IPv6 it never does: the switch for it (ip-sysctl, forwarding) is one for the
// whole host, and would make it deaf to its own router.
func (p *Port) Forwarded() bool {
	v4 := func(h netip.Prefix) bool { return h.Addr().Is4() }
	return p.Routed && slices.ContainsFunc(p.Host, v4) && slices.ContainsFunc(p.Addrs, netip.Addr.Is4)
}

// asserts reads netfilter/assert.xml.
func (r *policyReader) asserts() {
	if !r.loader.there(assertFile) {
		return
	}
	f := r.loader.file(assertFile)
	data, ok := r.loader.readDocument(f, assertFile)
	if !ok {
		return
	}
	root := readXML(data, f)
	if root == nil {
		return
	}
	sub := &policyReader{buildFile: &buildFile{file: f}, loader: r.loader, policy: r.policy}
	if root.name != "assert" {
		f.fault(root.line, "", "the root element must be <assert>, got <%s>", shorten(root.name))
		return
	}
	sub.known(root, nil)
	sub.noText(root)
	for _, n := range root.children {
		sub.assertion(n)
	}
}

func (r *policyReader) assertion(n *node) {
	a := &Assertion{File: r.file.path, Line: n.line, Always: n.name == "always"}
	switch n.name {
	case "never":
		r.leaf(n, neverAttrs)
	case "always":
		r.leaf(n, alwaysAttrs)
	default:
		r.file.fault(n.line, "assert", "unknown element %s: %s", show(n.name), suggestion(n.name, []string{"never", "always"}))
		return
	}
	ok := need(r, n, "from", &a.From, r.peer())
	ok = need(r, n, "to", &a.To, r.peer()) && ok
	target := oneNamed("a target", r.targets())
	if a.Always {
		take(r.buildFile, n, "via", &a.Via, target)
	} else {
		take(r.buildFile, n, "unless", &a.Via, func(s string) (string, error) {
			const word = "via "
			if len(s) <= len(word) || s[:len(word)] != word {
				return "", fmt.Errorf("must be via and a target, such as via firewall")
			}
			return target(s[len(word):])
		})
	}
	if r.traffic(n, &a.Proto, &a.Ports) && ok {
		r.policy.Assertions = append(r.policy.Assertions, a)
	}
}
