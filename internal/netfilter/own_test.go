package netfilter

import (
	"strings"
	"testing"

	"meros/internal/family"
	"meros/internal/proc"
)

func TestOwnFiles(t *testing.T) {
	f := &family.Family{Name: "demo", Targets: []*family.Target{{Family: "demo", Name: "web"}}}
	good := "#!/usr/sbin/nft -f\ndefine p = { 1, 2 }\n# flush ruleset\ntable inet meros_demo {\n\tchain c { # a }\n\t}\n}\nadd chain inet meros_demo \\\n d\nadd rule inet meros_demo d accept comment \"; flush ruleset\"\n"
	set, err := Ruleset{Family: "demo"}.With("netfilter/10.nft", good, f)
	if err != nil {
		t.Fatal(err)
	}
	listing, err := inNamespace(t.Context(), proc.Host{}, order{Family: "demo", Try: set.Text})
	if err != nil || !strings.Contains(listing.Listing, "flush ruleset") {
		t.Errorf("try = %q, %v", listing.Listing, err)
	}
	for _, bad := range []string{
		"flush ruleset", "table inet filter {}", "table meros_demo {}", "table ip meros_demo {}", "delete table inet other",
		"add table inet filter; delete table inet filter", "table inet meros_demo {}; flush ruleset", "include \"/etc/x\"",
		"add rule ip filter INPUT accept", "flush ruleset inet", "flush chain inet filter input", "table inet meros_demo2 {}",
		"define a = \"}\"\nflush ruleset", "define a = {\n}\nflush ruleset", "destroy table inet filter", "flush \\\nruleset", "list ruleset",
	} {
		if _, err := (Ruleset{Family: "demo"}).With("netfilter/10.nft", bad, f); err == nil {
			t.Errorf("%q is let through", bad)
		}
	}
	// What slips by the reading is caught by the trying.
	for _, bad := range []string{"table inet filter {}", "flush ruleset", "delete table ip meros_canary"} {
		if _, err := inNamespace(t.Context(), proc.Host{}, order{Family: "demo", Try: bad}); err == nil {
			t.Errorf("trying %q finds nothing", bad)
		}
	}
	if _, err := inNamespace(t.Context(), proc.Host{}, order{Family: "demo", Try: "table inet meros_demo { nonsense }"}); err == nil || !strings.Contains(err.Error(), "nft:") {
		t.Errorf("try of nonsense = %v", err)
	}
}
