package lifecycle

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"meros/internal/netfilter"
	"meros/internal/virt"
)

// guarded is a family with a policy: a guest that the host forwards for.
func guarded() map[string]string {
	return map[string]string{
		"build/box.xml": `<target><build id="box" kernel="no"/><details username="user"/>
			<network network_addr="10.62.$OCTET.1" ip_addr="10.62.$OCTET.2"/></target>`,
		"libvirt/box.xml": `<domain type="kvm"><memory unit="MiB">32</memory><os><type arch="x86_64">hvm</type></os>
			<devices><interface type="network"><source network="$NETWORK_FULL_ID"/></interface></devices></domain>`,
		"libvirt/lan.xml": `<network><forward mode="open"/><bridge name="mtb$PID" stp="off"/><dns enable="no"/>
			<ip address="10.62.$OCTET.1" prefix="24"/></network>`,
		"netfilter/policy.xml": `<policy><allow from="box" to="internet" proto="tcp"/><allow from="host" to="box" proto="tcp" ports="22"/></policy>`,
		"netfilter/10.nft":     "table inet meros_@F@ {\n\tchain own {\n\t}\n}\n",
	}
}

func hostText(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v: %s", argv, err, out)
	}
	return string(out)
}

// hostState is what init may not leave changed on the host. Other tests have
// guests of their own, so that links and libvirt's rules are left out.
func hostState(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	for line := range strings.Lines(hostText(t, "nft", "list", "tables")) {
		if strings.Contains(line, "meros_t") || line == "table inet meros\n" {
			b.WriteString(line)
		}
	}
	for _, link := range append(virt.Uplinks(), "all", "default", "lo") { // all is ip_forward
		b.WriteString(link + " " + forwards(t, link) + "\n")
	}
	return b.String()
}

// forwards is whether the host forwards what comes in at a link: 0 or 1.
func forwards(t *testing.T, link string) string {
	t.Helper()
	value, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + link + "/forwarding")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(value))
}

func newGuardedBench(t *testing.T, files map[string]string) (b *bench, bridge string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("filter rules take root")
	}
	return newQEMUBenchOf(t, files)
}

func TestPolicyComesAndGoes(t *testing.T) {
	before := hostState(t)
	forwarded := forwards(t, "default")
	b, bridge := newGuardedBench(t, guarded())
	// At no time may the host forward for more than the family's links.
	stop, widest := make(chan struct{}), make(chan bool)
	go func() {
		wide := false
		for {
			select {
			case <-stop:
				widest <- wide
				return
			case <-time.After(time.Millisecond):
				value, _ := os.ReadFile("/proc/sys/net/ipv4/conf/default/forwarding")
				wide = wide || string(value) == "1\n"
			}
		}
	}()
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatalf("%v\n%s", err, b.said)
	}
	close(stop)
	t.Logf("forwarding was open to all for a moment: %v", <-widest)
	if now := b.filterNow(t.Context(), b.family); now != FilterOK {
		t.Errorf("the rules are %q", now)
	}
	dev := netfilter.Device(b.family+"-box", 0)
	if _, err := os.Stat("/sys/class/net/" + bridge + "/brif/" + dev); err != nil {
		t.Errorf("the port: %v", err)
	}
	// A host that forwarded for all before still does.
	wants := map[string]string{bridge: "1", "default": forwarded}
	for _, link := range virt.Uplinks() {
		wants[link] = "1"
	}
	for link, want := range wants {
		if got := forwards(t, link); got != want {
			t.Errorf("%s forwards: %q, want %q", link, got, want)
		}
	}
	info, err := b.Info(t.Context(), b.family)
	if err != nil || info.Families[0].Filter != FilterOK || info.Families[0].Targets[0].State != virt.StateRunning {
		t.Errorf("Info = %+v, %v", info, err)
	}
	if len(virt.Uplinks()) > 0 && forwarded == "0" {
		hostText(t, "nft", "flush table inet meros")
		if now := b.filterNow(t.Context(), b.family); now != FilterChanged {
			t.Errorf("the guard is empty: %q", now)
		}
	}
	hostText(t, "nft", "delete table bridge "+netfilter.Table(b.family))
	if now := b.filterNow(t.Context(), b.family); now != FilterChanged {
		t.Errorf("half of the rules gone: %q", now)
	}
	hostText(t, "nft", "delete table inet "+netfilter.Table(b.family))
	if now := b.filterNow(t.Context(), b.family); now != FilterGone {
		t.Errorf("all of the rules gone: %q", now)
	}
	b.cleanUp()
	b.wantRuns()
	if after := hostState(t); after != before {
		t.Errorf("the host is left as\n%s\nwas\n%s", after, before)
	}
}

// TestForwardingIsShared has two families of two roots that the host forwards for: as
// long as one runs, the uplink forwards for it, as does one that comes between them;
// with the last the host is as before.
func TestForwardingIsShared(t *testing.T) {
	before := hostState(t)
	one, bridge := newGuardedBench(t, guarded())
	files := guarded()
	for name, content := range files {
		files[name] = strings.NewReplacer("10.62.", "10.61.", "mtb$PID", "mtc$PID").Replace(content)
	}
	other, _ := newGuardedBench(t, files)
	link := strings.Replace(bridge, "mtb", "mtu", 1)
	for _, b := range []*bench{one, other} {
		if err := b.init(t.Context(), InitOptions{}); err != nil {
			t.Fatalf("%v\n%s", err, b.said)
		}
		if b == one {
			hostText(t, "ip", "link", "add", link, "type", "bridge")
			defer exec.Command("ip", "link", "del", link).Run()
			hostText(t, "ip", "link", "set", link, "up")
			hostText(t, "ip", "route", "add", "default", "dev", link, "table", "51899")
		}
	}
	// A host that forwarded for all before guards nothing.
	s, err := readForwarding()
	if err != nil || strings.Contains(s.Guard, link) != (forwards(t, "default") == "0") {
		t.Errorf("the guard, with the new uplink %s: %v\n%s", link, err, s.Guard)
	}
	other.cleanUp()
	for _, link := range append(virt.Uplinks(), bridge) {
		if got := forwards(t, link); got != "1" {
			t.Errorf("%s/forwarding = %q once the other family has gone, want 1", link, got)
		}
	}
	if now := one.filterNow(t.Context(), one.family); now != FilterOK {
		t.Errorf("the rules of the family that stays are %q", now)
	}
	one.cleanUp()
	if got := forwards(t, link); got != forwards(t, "default") {
		t.Errorf("the new uplink is left with forwarding = %s", got)
	}
	hostText(t, "ip", "route", "del", "default", "dev", link, "table", "51899") // no uplink of before
	if after := hostState(t); after != before {
		t.Errorf("the host is left as\n%s\nwas\n%s", after, before)
	}
}

func TestPolicyFailsClosed(t *testing.T) {
	before := hostState(t)
	for name, change := range map[string]func(map[string]string) string{
		"own file touches others": func(f map[string]string) string {
			f["netfilter/10.nft"] = "table inet filter { }\n"
			return "is not about a table of the family"
		},
		"own file is nonsense": func(f map[string]string) string {
			f["netfilter/10.nft"] = "table inet meros_@F@ { nonsense }\n"
			return "nft:"
		},
		"domain does not start": func(f map[string]string) string {
			f["libvirt/box.xml"] = strings.Replace(f["libvirt/box.xml"], "<devices>", `<devices><disk type="file"><source file="/dev/null/x"/><target dev="vdz"/></disk>`, 1)
			return ""
		},
		"hook flushes": func(f map[string]string) string {
			f["hooks/10-flush"] = "#!/bin/sh\nnft delete table inet meros_@F@\n"
			return "are changed"
		},
	} {
		t.Run(name, func(t *testing.T) {
			files := guarded()
			words := change(files)
			b, bridge := newGuardedBench(t, files)
			err := b.init(t.Context(), InitOptions{})
			if err == nil {
				t.Fatal("Init did not fail")
			}
			b.wantError(err, words)
			b.wantRuns()
			if _, err := net.InterfaceByName(bridge); err == nil {
				t.Errorf("the bridge is left")
			}
			if after := hostState(t); after != before {
				t.Errorf("the host is left as\n%s\nwas\n%s", after, before)
			}
		})
	}
}

// watching tells of the moments at which something of a family comes to be, before each,
// and held once a guest is made.
type watching struct {
	*virt.Conn
	net, made func()
	held      func()
	let       func(name string)
}

func (w watching) CreateNetwork(ctx context.Context, xml string) error {
	if w.net != nil {
		w.net()
	}
	return w.Conn.CreateNetwork(ctx, xml)
}

func (w watching) CreatePaused(ctx context.Context, xml string) error {
	if w.made != nil {
		w.made()
	}
	err := w.Conn.CreatePaused(ctx, xml)
	if w.held != nil {
		w.held()
	}
	return err
}

func (w watching) Resume(ctx context.Context, name string) error {
	if w.let != nil {
		w.let(name)
	}
	return w.Conn.Resume(ctx, name)
}

// watch has w told of what the bench's family does.
func (b *bench) watch(w watching) {
	dial := b.Dial
	b.Dial = func(ctx context.Context) (virt.Daemon, error) {
		d, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		w.Conn = d.(*virt.Conn)
		return w, nil
	}
}

func TestGuestWaitsForItsRules(t *testing.T) {
	b, _ := newGuardedBench(t, guarded())
	ok := func(what string) func() {
		return func() {
			if now := b.filterNow(t.Context(), b.family); now != FilterOK {
				t.Errorf("%s is made while the rules are %q", what, now)
			}
		}
	}
	b.watch(watching{
		net: ok("the network"), made: ok("the guest"),
		let: func(name string) {
			domains, _ := b.daemon.Domains(t.Context())
			for _, d := range domains {
				if d.Name == name && d.State != virt.StatePaused {
					t.Errorf("%s is %s before it is let run", name, d.State)
				}
			}
		},
	})
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatalf("%v\n%s", err, b.said)
	}
}
