package netfilter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"meros/internal/proc"
)

// ForgetLink deletes the rules that libvirt has made for one of its bridges. One that
// was killed before it noted the network knows nothing of them and keeps them for ever.
func ForgetLink(ctx context.Context, r proc.Runner, link string) error {
	var b bytes.Buffer
	err := nft(ctx, r, "", &b, "-j", "-a", "list", "ruleset")
	if errors.Is(err, proc.ErrNotFound) {
		return nil // and so has nobody any
	}
	if err == nil {
		var text string
		if text, err = deletions(b.Bytes(), link); err == nil && text != "" {
			err = nft(ctx, r, text, nil)
		}
	}
	if err != nil {
		return fmt.Errorf("delete libvirt's rules for %s: %w", link, err)
	}
	return nil
}

// libvirtChains are those that libvirt makes by iptables (its source, viriptables.c and
// network_iptables.c); by nft it has a table of its own.
var libvirtChains = []string{"LIBVIRT_INP", "LIBVIRT_OUT", "LIBVIRT_FWO", "LIBVIRT_FWI", "LIBVIRT_FWX", "LIBVIRT_PRT"}

const libvirtTable = "libvirt_network"

// deletions are what deletes libvirt's rules for a link from a rule set.
func deletions(listing []byte, link string) (string, error) {
	var all struct{ Nftables []item }
	if err := json.Unmarshal(listing, &all); err != nil {
		return "", fmt.Errorf("read what nft says of this host's rules: %w", err)
	}
	var text strings.Builder
	for _, i := range all.Nftables {
		ru := i.Rule
		if ru == nil || ru.Table != libvirtTable && !slices.Contains(libvirtChains, ru.Chain) || !names(ru.Expr, link) {
			continue
		}
		fmt.Fprintf(&text, "delete rule %s %s %s handle %d\n", ru.Family, ru.Table, ru.Chain, ru.Handle)
	}
	return text.String(), nil
}

// names reports whether a rule is about what enters or leaves by a link.
func names(expr []map[string]json.RawMessage, link string) bool {
	return slices.ContainsFunc(expr, func(e map[string]json.RawMessage) bool {
		var match struct {
			Left  struct{ Meta struct{ Key string } }
			Right any
		}
		if e["match"] == nil || json.Unmarshal(e["match"], &match) != nil {
			return false
		}
		return slices.Contains([]string{"iifname", "oifname"}, match.Left.Meta.Key) && match.Right == link
	})
}
