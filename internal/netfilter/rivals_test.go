package netfilter

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"meros/internal/proc"
)

// TestRivals lays rules as docker, firewalld and others do, and reads what is said of
// them.
func TestRivals(t *testing.T) {
	if !inNetns(t) {
		return
	}
	via, pair := load(t, "via"), load(t, "pair")
	for _, c := range []struct{ name, rules, via, pair string }{
		{"an empty host", "", "", ""},
		{"accepts all", "table inet filter { chain f { type filter hook forward priority 0; policy accept; tcp dport 22 counter accept; }; }", "", ""},
		{
			"docker", "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }",
			"the chain FORWARD of the table ip filter drops what it does not know, and what goes between guests and lan or internet passes it too",
			"the chain FORWARD of the table ip filter drops what it does not know, and what goes between guests and lan or internet passes it too",
		},
		{
			"firewalld", "table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; policy accept; reject with icmpx type admin-prohibited; }; }",
			"the chain filter_FORWARD of the table inet firewalld judges packets too, and its table refuses some, and what goes between", "its table refuses some",
		},
		{"a strict host", "table inet mine { chain in { type filter hook input priority 0; policy drop; }; }", "what guests and this host send each other", "what guests and this host send each other"},
		{"IPv6 alone", "table ip6 mine { chain in { type filter hook input priority 0; policy drop; }; }", "", "what guests and this host send each other"},
		{"bridges", "table bridge mine { chain f { type filter hook forward priority 0; policy drop; }; }", "what guests send each other", "what guests send each other"},
		{"before routing", "table inet mine { chain p { type filter hook prerouting priority 0; policy drop; }; }", "all that guests send", "all that guests send"},
		{"a check of senders", "table inet mine { chain p { type filter hook prerouting priority -300; policy accept; fib saddr . iif oif missing drop; }; }", "", ""},
		{"frames on their way in", "table bridge mine { chain p { type filter hook prerouting priority 0; policy drop; }; }", "all that guests send", "all that guests send"},
		{"another family", "table inet meros_other { chain f { type filter hook forward priority 0; policy drop; }; }", "", ""},
	} {
		must(t, nft(t.Context(), proc.Host{}, "flush ruleset\n"+c.rules, nil)) // of this namespace
		for _, f := range []struct {
			name string
			want string
			got  func() ([]string, error)
		}{
			{"via", c.via, func() ([]string, error) { return Rivals(t.Context(), proc.Host{}, via) }},
			{"pair", c.pair, func() ([]string, error) { return Rivals(t.Context(), proc.Host{}, pair) }},
		} {
			got, err := f.got()
			if err != nil || (f.want == "") != (len(got) == 0) || f.want != "" && !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, f.want) }) {
				t.Errorf("%s, %s: Rivals = %q, %v, want %q", c.name, f.name, got, err, f.want)
			}
		}
	}
}

// TestRivalsOfTheOlderKind has rules that nft(8) does not show.
func TestRivalsOfTheOlderKind(t *testing.T) {
	if !inNetns(t) {
		return
	}
	program, err := exec.LookPath("iptables-legacy")
	if err != nil {
		t.Skip("this host has no iptables-legacy")
	}
	via := load(t, "via")
	say := func(want string, argv ...string) {
		t.Helper()
		if out, err := exec.Command(program, argv...).CombinedOutput(); err != nil {
			t.Skipf("iptables-legacy: %v: %s", err, out)
		}
		got, err := Rivals(t.Context(), proc.Host{}, via)
		if text := strings.Join(got, "\n"); err != nil || (want == "") != (text == "") || !strings.Contains(text, want) {
			t.Errorf("%q: Rivals = %q, %v, want %q", argv, got, err, want)
		}
	}
	say("", "-t", "nat", "-A", "POSTROUTING", "-s", "192.0.2.0/24", "-j", "MASQUERADE")
	say("iptables-legacy has rules that nft does not show (see iptables-legacy-save), in filter, and what goes between guests and lan or internet", "-A", "FORWARD", "-s", "192.0.2.1", "-j", "DROP")
	say("in filter, raw, and", "-t", "raw", "-A", "PREROUTING", "-s", "192.0.2.1", "-j", "DROP")
}
