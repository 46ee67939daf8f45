package e2e

import (
	"os/exec"
	"strings"
	"testing"
)

// TestShippedPolicies proves the shipped families that have a policy; no guest is
// started.
func TestShippedPolicies(t *testing.T) {
	needHost(t)
	root := newRoot(t)
	for _, name := range []string{"mos_sec", "mos_lab"} {
		if r := mustRun(t, root, "prove", name); !strings.Contains(r.out, " 0 not as declared") || strings.Contains(r.out, "VIOLATED") {
			t.Errorf("prove %s:\n%s", name, r.out)
		}
		mustRun(t, root, "lint", name, "--strict")
	}
}

// filterText is all that a family may not leave changed on the host: rules, links,
// routes, forwarding.
func filterText(t *testing.T) string {
	t.Helper()
	text := ""
	for _, argv := range [][]string{{"nft", "-s", "list", "ruleset"}, {"ip", "-br", "link"}, {"ip", "route"}, {"sysctl", "-a", "--pattern", "forwarding|ip_forward"}} {
		out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).Output()
		if err != nil {
			t.Fatalf("%q: %v", argv, err)
		}
		for line := range strings.Lines(string(out)) {
			// Other families may come and go meanwhile; their ports are vnet*, or mp*
			// where they have a policy, as this one has.
			if !strings.Contains(line, "vnet") && (!strings.Contains(line, "mos_") || strings.Contains(line, "mos_demo")) {
				text += line
			}
		}
	}
	return text
}

// TestPolicyOfARunningGuest gives mos_demo a policy and looks at what its guest
// can do, and at what is left of it.
func TestPolicyOfARunningGuest(t *testing.T) {
	needHost(t)
	root := newRoot(t)
	t.Cleanup(func() { meros(t, root, "shutdown", "--force") })
	const policy = "mos_demo/netfilter/policy.xml"
	write(t, root, policy, `<policy log="yes"><allow from="host" to="box" proto="tcp" ports="2022"/></policy>`, 0o644)
	mustRun(t, root, "build", "mos_demo")
	before := filterText(t)
	mustRun(t, root, "init", "mos_demo")
	knock := func() string {
		return meros(t, root, "exec", box, "--", "bash", "-c", "timeout 3 bash -c 'exec 3<>/dev/tcp/10.60.7.1/9'; echo $?").out
	}
	// 124: nothing answered. 1: the host said that nobody listens.
	if got := strings.TrimSpace(knock()); got != "124" {
		t.Errorf("the guest's packet to the host was answered: %q", got)
	}
	replaceIn(t, root, policy, `</policy>`, `<allow from="box" to="host" proto="tcp" ports="9"/></policy>`)
	mustRun(t, root, "policy", "apply", "mos_demo")
	if got := strings.TrimSpace(knock()); got != "1" {
		t.Errorf("what is allowed now is not answered: %q", got)
	}
	mustRun(t, root, "info", "--check", "mos_demo")
	if out, err := exec.CommandContext(t.Context(), "nft", "delete", "table", "inet", "meros_mos_demo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	wantFailure(t, meros(t, root, "info", "--check", "mos_demo"), 1, "mos_demo", "changed")
	mustRun(t, root, "shutdown", "mos_demo")
	if after := filterText(t); after != before {
		t.Errorf("the host is left as\n%s\nwas\n%s", after, before)
	}
}
