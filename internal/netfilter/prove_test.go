package netfilter

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// prove runs a proof of a case with its rules changed.
func prove(t *testing.T, name string, change func(string) string) Proof {
	t.Helper()
	f := load(t, name)
	rules, err := Compile(f, Host{}, testMAC)
	if err != nil {
		t.Fatal(err)
	}
	changed := change(rules.Text)
	rules.Text = changed
	proof, err := Prove(t.Context(), proc.Host{}, f, rules)
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

func TestProve(t *testing.T) {
	wantProved(t, "via", "pair")
}

func TestProveShipped(t *testing.T) { wantProved(t, "mos_sec", "mos_lab") }

// wantProved checks that the rules of families do what their policies say.
func wantProved(t *testing.T, families ...string) {
	t.Helper()
	for _, name := range families {
		proof := prove(t, name, func(s string) string { return s })
		if proof.Packets < 300 {
			t.Errorf("%s: %d packets, want hundreds", name, proof.Packets)
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

// A proof that finds nothing in rules with a hole proves nothing.
func TestProveFindsHoles(t *testing.T) {
	line := func(part, instead string) func(string) string {
		return func(s string) string {
			out := ""
			for l := range strings.Lines(s) {
				if strings.Contains(l, part) {
					l = instead + "\n"
				}
				out += l
			}
			return out
		}
	}
	for _, c := range []struct{ name, family, part, instead, want string }{
		{"no binding of ports", "pair", "goto refuse_spoofed", "accept", "another's MAC"},
		{"no check of VLAN tags", "pair", "@ll,96,16", "", "inside a VLAN tag"},
		{"fragments pass", "pair", "ip frag-off", "", "later fragment"},
		{"all between ports", "via", "jump between", "", "ip tcp 22"},
		{"all to the host", "via", "iifname { \"viain\", \"viaup\" } jump to_host", "", "udp to its address 10.62.1.1"},
		{"all from the host", "via", "oifname { \"viain\", \"viaup\" } jump from_host", "", "ip tcp 51515"},
		{"all through the host", "via", "iifname { \"viain\", \"viaup\" } jump through", "", "ip udp 53"},
		{"nothing to the internet", "via", "line 6: fw to internet", "", "ip tcp 51515"},
		{"no answers", "pair", "jump answers_ip", "", "ip tcp 80"},
		{"answers to anybody", "pair", "jump answers_ip", "", "ip tcp 80"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			proof := prove(t, c.family, line(c.part, c.instead))
			found := false
			for _, f := range proof.Faults {
				found = found || f.What == c.want
			}
			if !found || proof.Holds() {
				t.Errorf("not found; the faults are %+v", proof.Faults)
			}
		})
	}
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
