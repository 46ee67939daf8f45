package netfilter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"meros/internal/capture"
	"meros/internal/family"
	"meros/internal/prober"
	"meros/internal/proc"
)

// insideEnv tells a test that it runs in a network namespace of its own.
const insideEnv = "MEROS_TEST_NETNS"

// inNetns runs the calling test once more in a network namespace of its own, or
// returns true when that is where it runs.
func inNetns(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		return true
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("in a network namespace: %v", err)
	}
	t.Logf("%s", out)
	return false
}

// standIn is a guest that is a network namespace; its first process sleeps.
type standIn struct {
	pid    int
	target string
}

func (g standIn) command(argv ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", fmt.Sprint(g.pid), "-n", "--"}, argv...)...)
}

// guests gives the ports of a family to stand-ins with a kernel that answers.
type guests struct {
	t     *testing.T
	f     *family.Family
	rules Ruleset
	all   []standIn
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newGuests(t *testing.T, name string) *guests {
	t.Helper()
	f := load(t, name)
	rules, err := Compile(f, Host{}, testMAC)
	must(t, err)
	g := &guests{t: t, f: f, rules: rules}
	l := newScene(f, rules)
	l.links()
	must(t, batch(t.Context(), l.bench.Links))
	outside := g.namespace("")
	for _, kv := range sysctls(false) {
		if err := os.WriteFile("/proc/sys/"+kv[0], []byte(kv[1]), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	for _, target := range f.Targets {
		guest := g.namespace(target.Name)
		g.all = append(g.all, guest)
		via := netip.Addr{}
		for _, a := range f.Policy.Allows {
			if links := f.Policy.Links(target.Name, a.Via); a.From == target.Name && len(links) > 0 {
				via = links[0].B.Addrs[0]
			}
		}
		for _, p := range rules.Ports {
			if p.Target == target.Name {
				g.plug(guest, p, via)
			}
		}
	}
	for _, peer := range l.bench.Peers {
		if peer == peerPrefix+uplink || peer == peerPrefix+otherDevice {
			g.ip("link", "set", peer, "netns", fmt.Sprint(outside.pid))
			must(t, outside.command("ip", "link", "set", peer, "up").Run())
		}
	}
	return g
}

func (g *guests) ip(args ...string) {
	g.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		g.t.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

// namespace starts the first process of one.
func (g *guests) namespace(target string) standIn {
	g.t.Helper()
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	must(g.t, cmd.Start())
	g.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return standIn{cmd.Process.Pid, target}
}

// plug gives a port to a stand-in. Its way out is via, else the host.
func (g *guests) plug(guest standIn, p Port, via netip.Addr) {
	g.t.Helper()
	peer := peerPrefix + p.Dev
	g.ip("link", "set", peer, "netns", fmt.Sprint(guest.pid))
	var b strings.Builder
	fmt.Fprintf(&b, "link set %s address %s\nlink set %s up\nlink set lo up\n", peer, p.MAC, peer)
	for _, a := range p.Addrs {
		bits := map[bool]int{true: 24, false: 64}[a.Is4()]
		fmt.Fprintf(&b, "addr add %s/%d dev %s%s\n", a, bits, peer, map[bool]string{false: " nodad"}[a.Is4()])
	}
	if !via.IsValid() && len(p.Host) > 0 {
		via = p.Host[0].Addr()
	}
	if via.IsValid() && (p.Routed || len(g.f.Policy.PortsOf(p.Target)) == 1) {
		fmt.Fprintf(&b, "route add default via %s\n", via)
	}
	cmd := guest.command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(b.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		g.t.Fatalf("%s: %v: %s", b.String(), err, out)
	}
}

// verify watches while all stand-ins send what Plan lists.
func (g *guests) verify() ([]Leak, []Missed, Tally) {
	g.t.Helper()
	addrs, err := capture.Addrs()
	must(g.t, err)
	macs := map[string]string{}
	for _, s := range g.f.Policy.Segments {
		out, err := exec.Command("ip", "-br", "link", "show", s.Bridge).Output()
		must(g.t, err)
		macs[s.Bridge] = strings.Fields(string(out))[2]
	}
	var names []string
	for _, guest := range g.all {
		names = append(names, guest.target)
	}
	w, err := NewWatch(NewOracle(g.f, g.rules, Host{}, addrs))
	must(g.t, err)
	planned := Plan(g.f, g.rules, Surroundings{Host: addrs, Others: []netip.Addr{newScene(g.f, g.rules).otherAddr()}, MACs: macs}, names)
	w.Begin("test")
	w.Plan(planned)
	stop := w.Listen(planned)
	ended := make(chan error)
	for _, guest := range g.all {
		go func() { ended <- g.probe(w, guest, OrderOf(planned, guest.target)) }()
	}
	w.Fire(g.t.Context(), planned)
	for range g.all {
		if err := <-ended; err != nil {
			g.t.Error(err)
		}
	}
	for range 100 {
		if w.Settled() {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(300 * time.Millisecond)
	tally, missed := w.Judge()
	for _, p := range planned {
		if !p.Pass && !p.sent && p.Sender != family.PeerHost {
			g.t.Logf("unsent: %s %s %s %s", p.Sender, p.Receiver, p.Words, p.said.Why)
		}
	}
	leaks, _ := w.Leaks()
	stop()
	must(g.t, w.Close())
	if w.Packets() == 0 {
		g.t.Error("no packet was seen")
	}
	return leaks, missed, tally
}

func (g *guests) probe(w *Watch, guest standIn, o prober.Order) error {
	in, err := json.Marshal(o)
	if err != nil {
		return err
	}
	cmd := guest.command("/proc/self/exe", prober.Name)
	cmd.Args[len(cmd.Args)-2] = os.Args[0]
	cmd.Stdin = bytes.NewReader(in)
	r, out := io.Pipe()
	cmd.Stdout = out
	go func() { _ = out.CloseWithError(cmd.Run()) }()
	return prober.Listen(r, o, w.Said)
}

// hole is a change of rules by hand, and leaks that it has to bring: where, and a
// part of the packet.
type hole struct {
	name   string
	change map[string]string // of the lines that hold the word
	want   [][2]string
}

func (h hole) in(rules string) string {
	text := ""
	for line := range strings.Lines(rules) {
		for part, instead := range h.change {
			if strings.Contains(line, part) {
				line = instead + "\n"
			}
		}
		text += line
	}
	return text
}

// clean expects that all is as the policy says, and that at least so many forbidden
// packets were sent.
func (g *guests) clean(forbidden int) {
	g.t.Helper()
	leaks, missed, tally := g.verify()
	g.t.Logf("%+v", tally)
	for _, l := range leaks {
		g.t.Errorf("leak at %s: %s: %s", l.Where, l.Packet, l.Why)
	}
	for _, m := range missed {
		g.t.Errorf("missed: %+v", m)
	}
	if tally.Allowed < 5 || tally.Arrived != tally.Allowed || tally.Forbidden < forbidden {
		g.t.Errorf("%+v", tally)
	}
}

// TestWatchDual is of guests with both versions of IP that the host forwards for.
func TestWatchDual(t *testing.T) {
	if !inNetns(t) {
		return
	}
	g := newGuests(t, "pair")
	must(t, nft(t.Context(), proc.Host{}, g.rules.Text, nil))
	g.clean(100)
}

// TestWatch verifies real sockets of guests that are namespaces, and then holes that
// somebody made in the rules by hand.
func TestWatch(t *testing.T) {
	if !inNetns(t) {
		return
	}
	g := newGuests(t, "via")
	load := func(text string) {
		t.Helper()
		must(t, nft(t.Context(), proc.Host{}, text, nil))
	}
	load(g.rules.Text)
	g.clean(40)
	for _, c := range []hole{
		{"all that parts", map[string]string{"jump between": "", "goto refuse_spoofed": "accept", "jump to_host": "", "jump through": ""}, [][2]string{
			{"fw's port on viain", "10.62.2.2:2"},
			{"fw's port on viain", "52:54:00:66:66:66"},
			{"guest's port on viain", "10.62.2.1:22 > 10.62.2.2:2"},
			{"fw's port on viaup", "192.168.212.1:22 > 10.62.1.2:2"},
			{"the link mpuplink of the host", "203.0.113.7:53: UDP"},
			{"the link mpuplink of the host", "IP 192.168.213.2:2"}, // under the host's address
			{"the link " + otherDevice + " of the host", "192.168.212.2:22: TCP"},
			{"the host itself", "> 10.62.2.1:53"},
		}},
		{"a rule added by hand", map[string]string{"chain between {": "chain between {\nip protocol udp accept"}, [][2]string{
			{"fw's port on viain", "10.62.2.9:80: UDP"},
		}},
	} {
		load(c.in(g.rules.Text))
		leaks, _, _ := g.verify()
		for _, want := range c.want {
			if !slices.ContainsFunc(leaks, func(l Leak) bool { return l.Where == want[0] && strings.Contains(l.Packet, want[1]) && l.Why != "" }) {
				t.Errorf("%s: no leak at %s of %s", c.name, want[0], want[1])
			}
		}
		if t.Failed() {
			for _, l := range leaks {
				t.Logf("%s: %s: %s: %s", c.name, l.Where, l.Packet, l.Why)
			}
		}
	}
	// What is allowed and does not work is named too.
	load(strings.ReplaceAll(g.rules.Text, "tcp dport { 9050 }", "tcp dport { 9051 }"))
	_, missed, _ := g.verify()
	if !slices.ContainsFunc(missed, func(m Missed) bool { return m.From == "guest" && m.To == "fw" && m.What == "ip tcp 9050" }) {
		t.Errorf("guest to fw, tcp 9050, is not missed: %+v", missed)
	}
}

// TestFlood has a guest open more connections than it may: it gets no more than its
// share of the host's table, and its neighbour is not kept from anything.
func TestFlood(t *testing.T) {
	if !inNetns(t) {
		return
	}
	g := newGuests(t, "pair")
	must(t, nft(t.Context(), proc.Host{}, g.rules.Text, nil))
	l := newScene(g.f, g.rules)
	out, err := exec.Command("ip", "-br", "link", "show", "pairnet").Output()
	must(t, err)
	a := g.rules.Ports[0]
	o := prober.Order{}
	for i := range maxConns + 2000 {
		packet := frame{
			dst: mac(strings.Fields(string(out))[2]), src: mac(a.MAC), from: a.Addrs[0], to: l.worldAddr(family.PeerInternet, versions[0]),
			proto: protoUDP, body: udp(uint16(1024+i), 53, nil),
		}
		o.Frames = append(o.Frames, prober.Raw{ID: i + 1, MAC: a.MAC, Frame: packet.bytes()})
	}
	w, err := NewWatch(NewOracle(g.f, g.rules, Host{}, nil))
	must(t, err)
	must(t, g.probe(w, g.all[0], o))
	must(t, w.Close())
	content, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
	must(t, err)
	var count int
	if _, err := fmt.Sscan(string(content), &count); err != nil || count < maxConns/2 || count > maxConns+100 {
		t.Errorf("%d connections are tracked, %v, want %d at most", count, err, maxConns)
	}
	text, err := Counters(t.Context(), proc.Host{}, "pair")
	must(t, err)
	if regexp.MustCompile(`counter denied \{\s+packets [1-9]`).FindString(text) == "" {
		t.Errorf("the packets beyond are not counted:\n%s", text)
	}
	leaks, missed, _ := g.verify()
	if len(leaks) > 0 || slices.ContainsFunc(missed, func(m Missed) bool { return m.From != "a" }) {
		t.Errorf("after the flood: leaks %+v, missed %+v", leaks, missed)
	}
}
