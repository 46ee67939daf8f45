package netfilter

import (
	"bytes"
	"context"
	"fmt"

	"meros/internal/proc"
)

// guardTable is the one table that is not a family's: it is of all families of this
// host, since a drop in a family's own would be one for every other.
const guardTable = "meros"

// Guard is about uplinks that forward for families only. A link has one switch,
// whatever it forwards to: what comes in there goes to families' bridges, whose
// rules judge it, and to no other link, as before.
type Guard struct {
	Uplinks []string // none: no guard
	Bridges []string // that the host forwards for, of all families
}

// text is the guard for nft -f; it replaces an earlier one. What somebody else on
// this host begins to forward meanwhile, as docker does, still gets its answers and
// what it has addressed anew.
func (g Guard) text() string {
	c := &compiler{}
	c.line("table inet %s", guardTable)
	c.line("delete table inet %s", guardTable)
	if len(g.Uplinks) == 0 {
		return c.out.String()
	}
	c.block("table inet "+guardTable, func() {
		c.base("forward", "filter", "forward", inetFilter, func() {
			c.line("meta nfproto != ipv4 accept")
			c.line("iifname != %s accept", quoted(g.Uplinks))
			c.line("oifname %s accept", quoted(g.Bridges))
			for _, link := range g.Uplinks {
				// br_netfilter hands on what passes between a bridge's own ports.
				c.line(`iifname "%s" oifname "%s" meta iifkind "bridge" accept`, link, link)
			}
			c.line("ct state established,related accept")
			c.line("ct status dnat accept")
			c.line("counter drop")
		})
	})
	return c.out.String()
}

// Load puts the guard in place, or takes it away where there is nothing to guard, and
// returns its listing.
func (g Guard) Load(ctx context.Context, r proc.Runner) (string, error) {
	if _, err := proc.Find("nft"); err != nil && len(g.Uplinks) == 0 {
		return "", nil // nobody has ever loaded one
	}
	if err := nft(ctx, r, g.text(), nil); err != nil {
		return "", fmt.Errorf("guard the links that forward for families: %w", err)
	}
	return GuardListing(ctx, r)
}

// GuardListing returns the guard as the kernel has it, without what changes by itself;
// "" if there is none.
func GuardListing(ctx context.Context, r proc.Runner) (string, error) {
	there, err := tables(ctx, r)
	if err != nil || !there["inet "+guardTable] {
		return "", err
	}
	var b bytes.Buffer
	err = nft(ctx, r, "", &b, "-s", "-t", "list", "table", "inet", guardTable)
	return b.String(), err
}
