package netfilter

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"meros/internal/family"
	"meros/internal/proc"
)

// What passes all of meros's rules has to pass those of others at the same hook too:
// an accept ends one chain and not the others (nft(8), VERDICT STATEMENTS). So others
// can forbid what a policy allows, and never allow what it forbids.

// item is one line of nft's JSON (libnftables-json(5)), as far as it is of interest.
type item struct {
	Chain *struct {
		Family, Table, Name, Type, Hook, Policy string
	}
	Rule *struct {
		Family, Table, Chain string
		Handle               int
		Expr                 []map[string]json.RawMessage
	}
}

// rival is a chain of another table at one of the hooks.
type rival struct {
	kind, table, chain, hook string
	drops                    bool // what it does not know
}

// Rivals words which rules of others on this host may keep a family from what its
// policy allows it.
func Rivals(ctx context.Context, r proc.Runner, f *family.Family) ([]string, error) {
	if f.Policy == nil {
		return nil, nil
	}
	var b bytes.Buffer
	if err := nft(ctx, r, "", &b, "-j", "list", "ruleset"); err != nil {
		return nil, fmt.Errorf("see which other filter rules this host has: %w", err)
	}
	rivals, err := parseRivals(b.Bytes())
	if err != nil {
		return nil, err
	}
	bridged := map[string]bool{"ip": bridgeCalls("iptables"), "ip6": bridgeCalls("ip6tables")}
	bridged["inet"] = bridged["ip"] || bridged["ip6"]
	words := legacy(f.Policy, bridged)
	for _, o := range rivals {
		if why := o.meets(f.Policy, bridged); why != "" {
			words = append(words, o.words()+", and "+why+" passes it too")
		}
	}
	return words, nil
}

// legacyNames are where the kernel says which tables iptables-legacy has made. What is
// in them nft(8) does not show.
var legacyNames = []struct{ kind, program, file string }{
	{"ip", "iptables-legacy", "/proc/net/ip_tables_names"},
	{"ip6", "ip6tables-legacy", "/proc/net/ip6_tables_names"},
}

// legacy words which tables of iptables-legacy a policy's packets pass, whatever their
// rules are.
func legacy(p *family.Policy, bridged map[string]bool) []string {
	var words []string
	for _, n := range legacyNames {
		content, err := os.ReadFile(n.file)
		if err != nil {
			continue // a kernel without, or nobody who might load rules
		}
		// That of nat judges nothing.
		tables := slices.DeleteFunc(strings.Fields(string(content)), func(name string) bool { return name == "nat" })
		slices.Sort(tables)
		for _, hook := range []string{"forward", "input", "output"} {
			if why := (rival{kind: n.kind, hook: hook}).meets(p, bridged); why != "" && len(tables) > 0 {
				words = append(words, fmt.Sprintf("%s has rules that nft does not show (see %s-save), in %s, and %s passes them too",
					n.program, n.program, strings.Join(tables, ", "), why))
				break
			}
		}
	}
	return words
}

// bridgeCalls reports whether br_netfilter hands bridged frames on to the hooks of IP.
func bridgeCalls(what string) bool {
	value, err := os.ReadFile("/proc/sys/" + bridgeNF + what)
	return err == nil && strings.TrimSpace(string(value)) == "1"
}

// parseRivals lists the filter chains of others that drop or refuse anything.
func parseRivals(listing []byte) ([]rival, error) {
	var all struct{ Nftables []item }
	if err := json.Unmarshal(listing, &all); err != nil {
		return nil, fmt.Errorf("read what nft says of this host's rules: %w", err)
	}
	refusing := map[string]bool{}
	var list []rival
	for _, i := range all.Nftables {
		if ru := i.Rule; ru != nil && refuses(ru.Expr) && !strings.HasPrefix(ru.Chain, "LIBVIRT_") {
			refusing[ru.Family+" "+ru.Table] = true
		}
		c := i.Chain
		if c == nil || c.Type != "filter" || c.Table == guardTable || strings.HasPrefix(c.Table, Table("")) {
			continue
		}
		list = append(list, rival{kind: c.Family, table: c.Table, chain: c.Name, hook: c.Hook, drops: c.Policy == "drop"})
	}
	return slices.DeleteFunc(list, func(o rival) bool { return !o.drops && !refusing[o.kind+" "+o.table] }), nil
}

// refuses reports whether a rule drops or rejects something; xt is iptables's form.
func refuses(expr []map[string]json.RawMessage) bool {
	for _, e := range expr {
		for name, value := range e {
			if name == "drop" || name == "reject" || name == "xt" && bytes.Contains(value, []byte(`"REJECT"`)) {
				return true
			}
		}
	}
	return false
}

func (o rival) words() string {
	where := fmt.Sprintf("the chain %s of the table %s %s", o.chain, o.kind, o.table)
	if o.drops {
		return where + " drops what it does not know"
	}
	return where + " judges packets too, and its table refuses some"
}

// meets says what of a policy comes by the chain; "" if nothing does.
func (o rival) meets(p *family.Policy, bridged map[string]bool) string {
	has := func(test func(a *family.Allow) bool) bool { return slices.ContainsFunc(p.Allows, test) }
	routed := has(func(a *family.Allow) bool { return a.Via == "" && (family.External(a.From) || family.External(a.To)) })
	inner := has(func(a *family.Allow) bool { return a.Via != "" || family.IsTarget(a.From) && family.IsTarget(a.To) })
	toHost := has(func(a *family.Allow) bool { return a.To == family.PeerHost })
	fromHost := has(func(a *family.Allow) bool { return a.From == family.PeerHost })
	if o.kind == "bridge" {
		switch {
		case o.hook == "forward" && inner:
			return "what guests send each other"
		case o.hook == "input" && (toHost || fromHost || routed), o.hook == "output" && (toHost || fromHost || routed):
			return "what guests and this host send each other"
		case o.everywhere():
			return "all that guests send and are sent"
		}
		return ""
	}
	if o.kind != "ip" && o.kind != "ip6" && o.kind != "inet" || o.kind == "ip6" && !usesIPv6(p) {
		return ""
	}
	switch {
	case o.hook == "forward" && routed && o.kind != "ip6":
		return "what goes between guests and lan or internet"
	case o.hook == "forward" && inner && bridged[o.kind]:
		return "what guests send each other (net.bridge.bridge-nf-call-iptables or -ip6tables is 1)"
	case o.hook == "input" && (toHost || fromHost), o.hook == "output" && (toHost || fromHost):
		return "what guests and this host send each other"
	case o.everywhere() && (toHost || fromHost || routed && o.kind != "ip6" || inner && bridged[o.kind]):
		return "all that guests send and are sent by way of this host"
	}
	return ""
}

// everywhere reports whether the chain is passed by what is forwarded and what is not,
// and drops what it does not know. Rules that refuse some are common there, such as a
// check of senders, and keep nothing honest.
func (o rival) everywhere() bool {
	return o.drops && (o.hook == "prerouting" || o.hook == "postrouting")
}

func usesIPv6(p *family.Policy) bool {
	return slices.ContainsFunc(p.Ports, func(q *family.Port) bool { return len(versions[1].addrs(q.Addrs)) > 0 })
}
