package netfilter

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"meros/internal/family"
	"meros/internal/prober"
	"meros/internal/proc"
)

func TestMain(m *testing.M) {
	if IsChild(os.Args) {
		os.Exit(Child())
	}
	if prober.IsProbe(os.Args) {
		os.Exit(prober.Run(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// prove runs a proof of a case, as on a host.
func prove(t *testing.T, name string, host Host) Proof {
	t.Helper()
	f := load(t, name)
	rules, err := Compile(f, host, testMAC)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := Prove(t.Context(), proc.Host{}, f, rules)
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

func TestProve(t *testing.T) {
	wantProved(t, "via", "pair", "trio")
}

func TestProveShipped(t *testing.T) { wantProved(t, "mos_sec", "mos_lab") }

// wantProved checks that the rules of families do what their policies say.
func wantProved(t *testing.T, families ...string) {
	t.Helper()
	for _, name := range families {
		proof := prove(t, name, Host{})
		if proof.Packets < 300 {
			t.Errorf("%s: %d packets, want hundreds", name, proof.Packets)
		}
		if _, err := os.Stat("/proc/sys/net/bridge"); proof.NoBridgeNF && err == nil {
			t.Errorf("%s: not proved with br_netfilter, which this kernel has", name)
		}
		for _, fault := range proof.Faults {
			t.Errorf("%s: %+v", name, fault)
		}
		for _, v := range proof.Assertions {
			if !v.Holds {
				t.Errorf("%s: %+v", name, v)
			}
		}
	}
}

// The host's own subnets are lan, whatever their range.
func TestProveOwnSubnets(t *testing.T) {
	host := Host{Subnets: prefixes("198.51.100.0/24", "10.9.0.0/16", "2001:db8:5::/64")}
	proof := prove(t, "trio", host)
	for _, fault := range proof.Faults {
		t.Errorf("%+v", fault)
	}
	f := load(t, "trio")
	rules, err := Compile(f, Host{}, testMAC) // without them
	if err != nil {
		t.Fatal(err)
	}
	rules.Lan = host.Subnets
	if proof, err = Prove(t.Context(), proc.Host{}, f, rules); err != nil {
		t.Fatal(err)
	}
	for _, want := range []Finding{
		{From: "a", To: "lan", What: "ip tcp 631 at 198.51.100.1"},
		{From: "lan", To: "b", What: "ip tcp 8080 at 198.51.100.1"},
		{From: "b", To: "lan", What: "ip tcp 80 at 198.51.100.1"},
		{From: "a", To: "lan", What: "ip6 tcp 80 at 2001:db8:5::1 via b"},
	} {
		if !slices.ContainsFunc(proof.Faults, func(f Finding) bool { return f.From == want.From && f.To == want.To && f.What == want.What }) {
			t.Errorf("rules that do not know the host's subnets: nothing found from %s to %s, %s", want.From, want.To, want.What)
		}
	}
}

// gap is a rule set with one rule less, or with one that asks for less.
type gap struct {
	rule string // chain: rule
	text string
	leak bool // whether more passes by it; else less
	wide bool // whether it asks for less; guests that others speak for lose packets too
}

// gaps takes away each rule of a rule set in turn, and each condition of those by
// which one port sends as itself.
func gaps(text, port string) []gap {
	lines := strings.SplitAfter(text, "\n")
	with := func(at int, instead string) string {
		changed := slices.Clone(lines)
		changed[at] = instead
		return strings.Join(changed, "")
	}
	var list []gap
	table, chain := "", ""
	for i, line := range lines {
		rule := strings.TrimSpace(line)
		words := strings.Fields(rule)
		switch {
		case strings.HasPrefix(rule, "table ") && strings.HasSuffix(rule, "{"):
			table = words[1]
		case strings.HasPrefix(rule, "chain "):
			chain = table + " " + words[1]
		case rule == "}":
			chain = ""
		case chain == "" || strings.HasPrefix(rule, "type ") || strings.HasPrefix(rule, "counter name "):
		default:
			leak := strings.Contains(rule, "goto refuse") || rule == "drop" || strings.Contains(rule, "jump ") && !strings.Contains(rule, "jump answers")
			list = append(list, gap{chain + ": " + rule, with(i, ""), leak, false})
			if chain == "bridge from_port" && strings.Contains(rule, port) && strings.HasSuffix(rule, "accept") {
				for _, c := range conditions.FindAllString(rule, -1) {
					list = append(list, gap{chain + ": " + rule + ", without " + c, with(i, strings.Replace(line, c, "", 1)), true, true})
				}
			}
		}
	}
	return list
}

// conditions of a rule of from_port.
var conditions = regexp.MustCompile(`iifname "[^"]*" |ether saddr \S+ |(arp saddr ip|ip6? saddr) (!= )?\{[^}]*\} |arp saddr ether \S+ |arp operation \{[^}]*\} |arp (htype|ptype) \S+ |icmpv6 type (!= )?nd-neighbor-advert |meta l4proto != ipv6-icmp |ip6 hoplimit 255 |@th,64,128 \S+ `)

// closed are the rules whose hole another rule closes, or that no packet of a proof
// can show.
var closed = []struct{ rule, why string }{
	{`^none$`, "nothing was taken away"},
	{`from_port: .*without (arp htype 1|arp ptype ip) `, "ARP of other kinds is about no addresses that a Linux knows"},
	{`from_port: .*without icmpv6 type nd-neighbor-advert `, "what else an owner of its address sends, the rules beside it accept"},
	{`from_port: .*without ip6 saddr != \{ fc00::/7, fe80::/10 \} `, "2000::/3 has none of them"},
	{`from_port: .*icmpv6 type \{ nd-router-solicit`, "bridge between and inet to_host drop these too; this rule keeps them from the bridge's own multicast snooping"},
	{`bridge from_host: (goto refuse|.*nd-neighbor-solicit)|bridge output: `, "what the host sends inet from_host judges, and the bench tells it all neighbours: TestWatchDual has it ask"},
	{`bridge to_host: .*ip6 saddr \{ fd62:5::3 \}`, "b may forward by the host, which takes IPv4 alone"},
	{`ct count over`, "TestFlood has as many connections"},
	{`(to_host|from_host): ct state != new goto`, "what is no connection the host neither sends nor hears"},
	{`inet output: oifname .*goto refuse_denied`, "TestWatch hears what the host says by its ends of ports"},
}

// closedBy says why a hole may stay unseen.
func closedBy(h gap) string {
	for _, c := range closed {
		if regexp.MustCompile(c.rule).MatchString(h.rule) {
			return c.why
		}
	}
	return ""
}

// A proof that finds nothing in rules with a hole proves nothing.
func TestProveFindsHoles(t *testing.T) {
	f := load(t, "trio")
	rules, err := Compile(f, Host{}, testMAC)
	if err != nil {
		t.Fatal(err)
	}
	list := gaps(rules.Text, rules.Ports[1].Dev) // of b, which is a next hop too
	if len(list) < 90 {
		t.Fatalf("%d gaps, want one for each rule", len(list))
	}
	list = append(list, gap{rule: "none", text: rules.Text, wide: true})
	var wait sync.WaitGroup
	slots := make(chan struct{}, 10) // a proof waits most of its time
	for i, h := range list {
		if testing.Short() && i%10 != 0 {
			continue
		}
		wait.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			found, all := seen(t, f, rules, h)
			why := closedBy(h)
			switch {
			case !found && why == "":
				t.Errorf("not found: %s; the faults are %+v", h.rule, all)
			case found && why != "":
				t.Errorf("found, though %s: %s; the faults are %+v", why, h.rule, all)
			}
		})
	}
	wait.Wait()
}

// seen reports whether a proof finds that more, or less, passes than is declared.
func seen(t *testing.T, f *family.Family, rules Ruleset, h gap) (found bool, faults []Finding) {
	rules.Text = h.text
	for _, under := range settings {
		all, err := proveUnder(t.Context(), proc.Host{}, f, rules, under)
		if err != nil {
			t.Errorf("%s: %v", h.rule, err)
			return false, nil
		}
		for _, finding := range all {
			if finding.Good() {
				continue
			}
			faults = append(faults, finding)
			missing := finding.Want && !finding.Got || strings.Contains(finding.Trouble, "did not get back") || strings.Contains(finding.Trouble, "own address")
			if missing != h.leak || h.wide {
				return true, faults
			}
		}
	}
	return false, faults
}

// An ordinary user proves as well as root.
func TestProveUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("TestProve has done it")
	}
	dir, err := os.MkdirTemp("", "meros-prove-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "prove.test")
	if err := errors.Join(os.WriteFile(program, self, 0o755), os.Chmod(dir, 0o755), os.CopyFS(filepath.Join(dir, "testdata"), os.DirFS("testdata"))); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestProve$", "-test.v")
	cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestProve") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

func TestAssess(t *testing.T) {
	f := load(t, "via")
	f.Policy.Assertions = []*family.Assertion{
		{From: "guest", To: "internet", Via: "fw"},
		{From: "guest", To: "lan"},
		{From: "guest", To: "internet"},
		{From: "guest", To: "fw", Proto: "tcp", Ports: []family.PortRange{{First: 9000, Last: 9100}}},
		{From: "guest", To: "fw", Proto: "tcp", Ports: []family.PortRange{{First: 9000, Last: 9049}}},
		{Always: true, From: "host", To: "guest", Proto: "tcp", Ports: []family.PortRange{{First: 2022, Last: 2022}}},
		{Always: true, From: "host", To: "family", Proto: "tcp", Ports: []family.PortRange{{First: 2022, Last: 2022}}},
	}
	want := []bool{true, true, false, false, true, true, false}
	got := Assess(f)
	for i, v := range got {
		if v.Holds != want[i] {
			t.Errorf("%s: holds = %v, want %v (%s: %s)", v.Words, v.Holds, want[i], v.Packet, v.Rule)
		}
	}
	if w := "tcp 10.62.2.2:40000 > 203.0.113.7:51515, next hop fw"; got[2].Packet != w || !strings.Contains(got[2].Rule, "policy.xml:3") {
		t.Errorf("packet %q by %q, want %q by line 3", got[2].Packet, got[2].Rule, w)
	}
}

func TestMatrix(t *testing.T) {
	for _, c := range Matrix(load(t, "via")) {
		words := strings.Join(c.Allow, "; ")
		want := map[string]string{
			"guest>internet": "tcp via fw (line 3)", "guest>fw": "tcp 9050 (line 4); udp 53 (line 5)",
			"fw>internet": "tcp (line 6)", "host>guest": "tcp 2022 (line 7)",
		}[c.From+">"+c.To]
		if words != want {
			t.Errorf("%s to %s: %q, want %q", c.From, c.To, words, want)
		}
	}
}
