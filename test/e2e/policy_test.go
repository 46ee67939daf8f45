package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
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

// gatedDemo gives mos_demo a second target of the same image, the next hop of the
// first, whose user is root so that it can send any frame.
func gatedDemo(t *testing.T, root string) {
	t.Helper()
	remove(t, root, "mos_demo/build/alpine.xml")
	remove(t, root, "mos_demo/libvirt/alpine.xml")
	remove(t, root, "mos_demo/rootfs/alpine")
	for from, to := range map[string]string{
		"build/box.xml": "build/gate.xml", "libvirt/box.xml": "libvirt/gate.xml", "rootfs/box/hooks/20-network.sh": "rootfs/gate/hooks/20-network.sh",
		"rootfs/box/includes.chroot/etc/systemd/network/10-lan.network": "rootfs/gate/includes.chroot/etc/systemd/network/10-lan.network",
	} {
		content, err := os.ReadFile(filepath.Join(root, "conf/target/mos_demo", from))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer("10.60.7.2", "10.60.7.9", `"box"`, `"gate"`).Replace(string(content))
		write(t, root, "mos_demo/"+to, text, map[bool]os.FileMode{true: 0o755, false: 0o644}[strings.Contains(to, "hooks")])
	}
	replaceIn(t, root, "mos_demo/rootfs/box/includes.chroot/etc/systemd/network/10-lan.network", "[Network]", "[Network]\nGateway=10.60.7.9")
	replaceIn(t, root, "mos_demo/build/box.xml", `username="user"`, `username="root"`)
	write(t, root, "mos_demo/netfilter/policy.xml", `<policy log="yes">
<allow from="box" to="internet" via="gate" proto="tcp"/>
<allow from="box" to="gate" proto="udp" ports="53"/>
<allow from="gate" to="box" proto="icmp"/>
<allow from="host" to="family" proto="tcp" ports="2022"/>
</policy>`, 0o644)
}

// TestPolicyOfRunningGuests gives mos_demo a policy and looks at what its guests can
// do, with the policy as it is, changed, and with holes, and at what is left of it.
func TestPolicyOfRunningGuests(t *testing.T) {
	needHost(t)
	root := newRoot(t)
	t.Cleanup(func() { meros(t, root, "shutdown", "--force") })
	const policy = "mos_demo/netfilter/policy.xml"
	gatedDemo(t, root)
	mustRun(t, root, "build", "mos_demo")
	warmLibvirt(t)
	before := filterText(t)
	mustRun(t, root, "init", "mos_demo")
	t.Run("verify", func(t *testing.T) { testVerify(t, root) })
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
	shown := mustRun(t, root, "policy", "show", "mos_demo").out
	for _, want := range []string{`box +internet +tcp via gate \(line 2\)`, "# As the kernel has them", `counter packets [1-9][0-9]* bytes [0-9]+ accept comment "line [0-9]+: host to box"`} {
		if !regexp.MustCompile(want).MatchString(shown) {
			t.Errorf("policy show lacks %q:\n%s", want, shown)
		}
	}
	nft(t, "delete", "table", "inet", "meros_mos_demo")
	wantFailure(t, meros(t, root, "info", "--check", "mos_demo"), 1, "mos_demo", "changed")
	mustRun(t, root, "shutdown", "mos_demo")
	if after := filterText(t); after != before {
		t.Errorf("the host is left as\n%s\nwas\n%s", after, before)
	}
}

// warmLibvirt has libvirt start a network: with its first one it makes chains of its
// own, and keeps them.
func warmLibvirt(t *testing.T) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "net.xml")
	if err := os.WriteFile(file, []byte(`<network><name>e2e_warm</name><bridge name="e2e_warm"/></network>`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"net-create", file}, {"net-destroy", "e2e_warm"}} {
		if out, err := exec.CommandContext(t.Context(), "virsh", append([]string{"-c", "qemu:///system"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("virsh %q: %v: %s", args, err, out)
		}
	}
}

func nft(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "nft", args...).CombinedOutput(); err != nil {
		t.Fatalf("nft %q: %v: %s", args, err, out)
	}
}

// verification is what meros verify --output json prints.
type verification struct {
	Phases []struct {
		Phase                               string
		Allowed, Arrived, Forbidden, Unsent int
	}
	Leaks  []leak
	Missed []any
	Filter string

	Untried, Notes []string
}

type leak struct{ Phase, Where, From, Packet, Why, Frame string }

func verify(t *testing.T, root string, status int, args ...string) verification {
	t.Helper()
	r := meros(t, root, append([]string{"verify", "mos_demo", "--output", "json"}, args...)...)
	var v verification
	if err := json.Unmarshal([]byte(r.out), &v); err != nil || r.code != status {
		t.Fatalf("exit status %d, want %d: %v\n%s%s", r.code, status, err, r.out, r.err)
	}
	return v
}

// testVerify has the guests verified with a hole in the rules, and without, while they
// are restarted.
func testVerify(t *testing.T, root string) {
	ordinary := call{root: root, args: []string{"verify", "mos_demo"}, attr: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}}
	if r := ordinary.run(t); r.code != 4 {
		t.Errorf("as nobody: exit status %d, want 4\n%s", r.code, r.err)
	}
	t.Run("hole", func(t *testing.T) { testVerifyHole(t, root) })
	t.Run("disrupted", func(t *testing.T) { testVerifyDisrupted(t, root) })
	t.Run("partly", func(t *testing.T) { testVerifyPartly(t, root) })
}

// testVerifyPartly has one of the guests down, which is no proof unless it is asked for.
func testVerifyPartly(t *testing.T, root string) {
	mustRun(t, root, "shutdown", "mos_demo-gate")
	if v := verify(t, root, 1); len(v.Leaks)+len(v.Missed) > 0 || len(v.Untried) != 1 {
		t.Errorf("with one guest down: %+v", v)
	}
	verify(t, root, 0, "--partial")
	mustRun(t, root, "init", "mos_demo")
}

func testVerifyHole(t *testing.T, root string) {
	// In both tables: where br_netfilter hands bridged frames on, each forbids it.
	nft(t, "insert", "rule", "bridge", "meros_mos_demo", "between", "ip", "protocol", "udp", "accept")
	nft(t, "insert", "rule", "inet", "meros_mos_demo", "through", "ip", "protocol", "udp", "accept")
	v := verify(t, root, 1)
	if v.Filter != "changed" || !slices.ContainsFunc(v.Leaks, func(l leak) bool {
		return l.From == "box" && l.Where == "gate's port on mos_demo_lan" && strings.Contains(l.Packet, "> 10.60.7.9:80: UDP") && l.Frame != ""
	}) {
		t.Errorf("a rule added by hand is not found: %+v", v)
	}
	r := meros(t, root, "verify", "mos_demo")
	wantFailure(t, r, 1, "the policy does not hold")
	if !strings.Contains(r.out, "LEAK, as it is: at gate's port on mos_demo_lan from box") || !strings.Contains(r.out, "RULES changed") {
		t.Errorf("the report does not name the leak:\n%s", r.out)
	}
	mustRun(t, root, "policy", "apply", "mos_demo")
}

func testVerifyDisrupted(t *testing.T, root string) {
	v := verify(t, root, 0, "--disrupt")
	names := []string{}
	for _, p := range v.Phases {
		names = append(names, p.Phase)
		// A guest that starts quickly leaves little time to send in.
		if p.Arrived != p.Allowed || p.Forbidden < 20 && !strings.HasSuffix(p.Phase, " starts") {
			t.Errorf("%+v", p)
		}
	}
	want := "as it is, while rules are loaded anew, while gate reboots, while gate is killed, while gate starts, after gate was restarted, while box is killed, while box starts, after box was restarted"
	if got := strings.Join(names, ", "); got != want {
		t.Errorf("the phases are %s, want %s", got, want)
	}
}
