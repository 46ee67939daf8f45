package e2e

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"meros/internal/capture"
)

const (
	secGuest    = "mos_sec-guest"
	secFirewall = "mos_sec-firewall"
)

// secRootEnv names a root with the images of TestSec, made by an earlier run and
// kept: whoever works on the test need not build at each run.
const secRootEnv = "MEROS_E2E_SEC_ROOT"

// TestSec runs mos_sec against a private Tor network, and mos_lab beside it.
func TestSec(t *testing.T) {
	needHost(t)
	for _, program := range []string{"tor", "tor-gencert"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s: ./dist-conf.sh --for-tests installs it", program)
		}
	}
	root := os.Getenv(secRootEnv)
	if root == "" {
		root = buildSec(t)
		t.Setenv(secRootEnv, root)
	}
	if !onPrivateHost(t) {
		return
	}
	s := sec{root: root, net: newTorNet(t, torDir(root))}
	s.world = s.net.startWorld(t)
	s.uplink = watch(t, uplink)
	t.Cleanup(func() { meros(t, root, "shutdown", "--force") })
	mustRun(t, root, "init", "mos_sec", "--timeout", "15m")
	t.Run("first boot", s.firstBoot)
	t.Run("through Tor", s.throughTor)
	t.Run("nothing else", s.nothingElse)
	t.Run("verify", s.verify)
	t.Run("without the firewall's rules", s.withoutInner)
	t.Run("without the host's rules", s.withoutOuter)
	t.Run("beside mos_lab", s.lab)
	mustRun(t, root, "shutdown", "mos_sec")
}

// buildSec builds mos_sec as it ships, but for a Tor network that is another one and
// what the test needs in the guests, and a small mos_lab.
func buildSec(t *testing.T) string {
	t.Helper()
	t.Setenv("TMPDIR", "/var/tmp") // a private host has a /tmp of its own
	root := newRoot(t)
	net := newTorNet(t, torDir(root))
	const recipe = "mos_sec/"
	replaceIn(t, root, recipe+"build/guest.xml", "<packages>", "<packages>busybox sudo ")
	replaceIn(t, root, recipe+"build/firewall.xml", "<packages>", "<packages>sudo ")
	letSudo(t, root, "mos_sec")
	torrc := filepath.Join(root, "conf/target", recipe, "rootfs/firewall/includes.chroot/etc/tor/torrc")
	shipped, err := os.ReadFile(torrc)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(torrc, append(shipped, net.clientConf()...), 0o644); err != nil {
		t.Fatal(err)
	}
	trimLab(t, root)
	for _, name := range []string{"mos_sec", "mos_lab"} {
		mustRun(t, root, "build", name, "--kernel", "distro", "-j", "2")
	}
	bringVictim(t, root)
	return root
}

// letSudo gives the user of a family's guests root: the test plays guests that are
// taken over.
func letSudo(t *testing.T, root, family string) {
	t.Helper()
	write(t, root, family+"/rootfs/common/includes.chroot/etc/sudoers.d/test", "user ALL=(ALL) NOPASSWD: ALL\n", 0o440)
}

func torDir(root string) string { return filepath.Join(root, "tor") }

// sec is mos_sec under way.
type sec struct {
	root   string
	net    torNet
	world  *world
	uplink *watcher
}

// in runs a line of shell in a target and returns what it prints, errors too.
func (s sec) in(t *testing.T, target, line string) string {
	t.Helper()
	r := meros(t, s.root, "exec", target, "--", "bash", "-c", line)
	return strings.TrimSpace(r.out + r.err)
}

// firstBoot checks what a guest has and says of itself without having been told.
func (s sec) firstBoot(t *testing.T) {
	for line, want := range map[string]string{
		"grep -v '^#' /etc/resolv.conf":                  "nameserver 10.60.21.2",
		"ip route show default":                          "default via 10.60.21.2 dev enp1s0 proto static",
		"ls /proc/net/if_inet6":                          "ls: cannot access '/proc/net/if_inet6': No such file or directory",
		"cat /proc/sys/net/ipv4/tcp_timestamps":          "0",
		"date +%Z; hostname":                             "UTC\nlocalhost",
		"systemctl is-enabled systemd-timesyncd.service": "masked",
		"systemctl --failed --plain --no-legend":         "",
	} {
		if got := s.in(t, secGuest, line); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	// Its clock is the host's, and nobody was asked for the time.
	var now int64
	if _, err := fmt.Sscan(s.in(t, secGuest, "date +%s"), &now); err != nil || time.Since(time.Unix(now, 0)).Abs() > time.Minute {
		t.Errorf("the guest's clock says %s, %v", time.Unix(now, 0).UTC(), err)
	}
	if got := s.in(t, secFirewall, "systemctl --failed --plain --no-legend; systemctl show -p NRestarts tor@default"); got != "NRestarts=0" {
		t.Errorf("the firewall's services: %s", got)
	}
}

// fetch is a line of shell that prints what a web server says to whom.
func fetch(host string) string {
	return fmt.Sprintf(`exec 3<>/dev/tcp/%s/80 && printf 'GET / HTTP/1.0\r\nHost: %s\r\n\r\n' >&3 && tail -n1 <&3`, host, host)
}

// throughTor fetches a page in each way that the guest has. The server has to see
// an exit.
func (s sec) throughTor(t *testing.T) {
	s.awaitExit(t, fetch(webAddr)) // Tor needs a consensus of the network, which is as young as this test
	t.Run("by name", func(t *testing.T) { s.awaitExit(t, fetch(webName)) })
	socks := "busybox wget -q -O - http://" + webName + "/"
	t.Run("torsocks", func(t *testing.T) { s.awaitExit(t, "torsocks "+socks) })
	t.Run("proxychains4", func(t *testing.T) { s.awaitExit(t, "proxychains4 -q "+socks) })
	t.Run("Firefox", s.firefox)
	t.Run("apart", s.apart)
	for _, v := range s.world.visits() {
		if !slices.Contains(s.net.exits(), v.from) {
			t.Errorf("the web server was called by %s", v.from)
		}
	}
	s.wantOnlyTor(t)
}

// verify has mos_sec verified. The firewall's own rules keep in what its
// user is told to send: that much is not tried, which verify says, and nothing else.
func (s sec) verify(t *testing.T) {
	r := meros(t, s.root, "verify", "mos_sec")
	wantFailure(t, r, 1, "holds as far as it was tried", "firewall to all, any packet", "--partial")
	for line := range strings.Lines(r.out) {
		if strings.Contains(line, "not seen to send") && !strings.Contains(line, ", firewall to ") {
			t.Error(line)
		}
	}
}

// firefox has the guest's browser fetch a page, with what the recipe tells it.
func (s sec) firefox(t *testing.T) {
	// The first run makes the profile and keeps little of what it did.
	said := s.in(t, secGuest, "mkdir profile; for page in http://"+webName+"/ about:policies; do "+
		"timeout 400 firefox-esr --headless --profile profile --screenshot page.png $page || exit; done; grep browser.policies.applied profile/prefs.js")
	if !slices.ContainsFunc(s.world.visits(), func(v visit) bool { return strings.Contains(v.agent, "Firefox/") }) {
		t.Errorf("Firefox asked for no page: %s", said)
	}
	if !strings.Contains(said, `user_pref("browser.policies.applied", true);`) {
		t.Errorf("Firefox applied no policies: %s", said)
	}
}

// apart has three programs keep a connection through the SOCKS port, two of them with
// the same login: those share a circuit, and the third has one of its own.
func (s sec) apart(t *testing.T) {
	s.in(t, secGuest, "for login in one two one; do (sleep 120 | torsocks -u $login -p x busybox nc "+webAddr+" 80) >/dev/null 2>&1 & done")
	const ask = `sudo perl -MIO::Socket::UNIX -e '$s = IO::Socket::UNIX->new("/run/tor/control") or die $!; open F, "/run/tor/control.authcookie"; read F, $c, 32;
		print $s "AUTHENTICATE " . unpack("H*", $c) . "\r\nGETINFO stream-status\r\nQUIT\r\n"; print while <$s>'`
	var streams [][]string
	for deadline := time.Now().Add(2 * time.Minute); len(streams) < 3 && time.Now().Before(deadline); time.Sleep(time.Second) {
		streams = regexp.MustCompile(`(?m)^[0-9]+ SUCCEEDED ([0-9]+) `+regexp.QuoteMeta(webAddr)+`:80`).FindAllStringSubmatch(s.in(t, secFirewall, ask), -1)
	}
	circuits := map[string]int{}
	for _, stream := range streams {
		circuits[stream[1]]++
	}
	if len(streams) != 3 || len(circuits) != 2 {
		t.Errorf("three streams of two logins have these circuits: %v", circuits)
	}
	s.in(t, secGuest, "pkill -f busybox.nc")
}

// awaitExit has the guest fetch a page until there is one, since Tor takes its time:
// it has to be an exit that did.
func (s sec) awaitExit(t *testing.T, line string) {
	t.Helper()
	for deadline := time.Now().Add(4 * time.Minute); ; time.Sleep(time.Second) {
		page := s.in(t, secGuest, "timeout 20 bash -c "+quote(line))
		caller, whole := strings.CutPrefix(page, "you are ")
		switch {
		case whole && !slices.Contains(s.net.exits(), caller):
			t.Fatalf("%s: the server was called by %s, which is no exit", line, caller)
		case whole:
			return
		case time.Now().After(deadline):
			t.Fatalf("%s: no page: %s\n%s", line, page, s.in(t, secFirewall, "sudo journalctl -u tor@default --no-pager | tail -20"))
		}
	}
}

// probes are what a guest that is taken over tries in order to reach somebody else
// than the firewall's Tor, or to be seen.
var probes = []string{
	"echo probe >/dev/udp/" + nameAddr + "/53", "echo probe >/dev/udp/" + webAddr + "/123", "echo probe >/dev/udp/" + webAddr + "/443",
	"busybox nslookup -type=a probe.example.org " + nameAddr, "sudo busybox ping -c 2 -W 1 " + webAddr, "sudo busybox traceroute -n -q 1 -w 1 -m 3 " + webAddr,
	"echo probe >/dev/tcp/10.60.20.1/22", "echo probe >/dev/tcp/" + hostAddr + "/22", "echo probe >/dev/tcp/" + worldAddr + "/22",
	"echo probe >/dev/udp/224.0.0.251/5353", "echo probe >/dev/udp/10.60.21.255/137",
	// As somebody else, and past the firewall.
	"sudo ip address add 10.60.20.2/32 dev enp1s0; sudo busybox ping -c 1 -W 1 -I 10.60.20.2 " + webAddr + "; sudo ip address delete 10.60.20.2/32 dev enp1s0",
	"sudo ip route add " + nameAddr + " via 10.60.21.1; echo probe >/dev/udp/" + nameAddr + "/53; timeout 3 bash -c 'echo probe >/dev/tcp/" + nameAddr + "/53'; sudo ip route delete " + nameAddr,
}

// probe has the guest try all of it, side by side.
func (s sec) probe(t *testing.T) {
	t.Helper()
	var line strings.Builder
	for _, p := range probes {
		fmt.Fprintf(&line, "timeout 10 bash -c %s & ", quote(p))
	}
	s.in(t, secGuest, line.String()+"wait")
}

// nothingElse tries, and looks at the uplink and at who was asked for names.
func (s sec) nothingElse(t *testing.T) {
	s.uplink.take()
	s.probe(t)
	s.wantOnlyTor(t)
	names, err := os.ReadFile(s.world.names)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(names)) {
		_, from, ok := strings.Cut(line, " from ")
		// An exit asks from the address that is nearest: they share a namespace.
		if ok && !slices.Contains(append(s.net.exits(), nameAddr), strings.TrimSpace(from)) {
			t.Errorf("the name server was asked: %s", line)
		}
	}
}

// wantOnlyTor checks what passed the uplink since the last look: connections of
// the host's address with relays, and ARP between the two ends of the cable.
func (s sec) wantOnlyTor(t *testing.T) {
	t.Helper()
	frames, connections := s.uplink.take(), 0
	for _, f := range frames {
		s.wantTor(t, f, netip.MustParseAddr(hostAddr))
		if f.Flags == capture.SYN {
			connections++
		}
	}
	t.Logf("the uplink saw %d frames and %d connections to relays", len(frames), connections)
}

// asksExit reports whether an exit brings what the guest had Tor ask of this host,
// as from anywhere in the world, or is answered: the guest's probe of hostAddr.
func (s sec) asksExit(f capture.Frame) bool {
	exit := func(a netip.Addr) bool { return slices.Contains(s.net.exits(), a.String()) }
	host := netip.MustParseAddr(hostAddr)
	return f.Proto == capture.TCP && (exit(f.From) && f.To == host && f.DestPort == 22 || exit(f.To) && f.From == host && f.SourcePort == 22)
}

// wantTor checks one frame that a Tor client at an address may send or get.
func (s sec) wantTor(t *testing.T, f capture.Frame, client netip.Addr) {
	t.Helper()
	if f.Ether == capture.EtherARP || ownIPv6(f) || s.asksExit(f) {
		return
	}
	relay := func(a netip.Addr, port uint16) bool {
		return slices.Contains(s.net.relays(), a.String()) && (port == torPort || port == dirPort)
	}
	out, in := f.From == client && relay(f.To, f.DestPort), f.To == client && relay(f.From, f.SourcePort)
	switch {
	case f.Ether != capture.EtherIP4 || f.Proto != capture.TCP || !out && !in:
		t.Errorf("passed: protocol %d from %s port %d to %s port %d: % x", f.Proto, f.From, f.SourcePort, f.To, f.DestPort, f.Raw[:min(len(f.Raw), 80)])
	case f.Flags == capture.SYN && timestamped(f):
		t.Errorf("tells the sender's clock: % x", f.Raw)
	}
	for _, word := range []string{"mos_sec", "firewall", "probe", webName} {
		if bytes.Contains(f.Raw, []byte(word)) {
			t.Errorf("tells %q: % x", word, f.Raw)
		}
	}
}

// withoutInner takes the firewall's rules away and has it pass on what it gets,
// first as it is, then in its own name: the host's rules hold all that is not TCP.
func (s sec) withoutInner(t *testing.T) {
	s.in(t, secFirewall, "sudo nft flush ruleset; sudo sysctl -q net.ipv4.ip_forward=1")
	direct := "timeout 5 bash -c 'echo probe >/dev/tcp/" + webAddr + "/80'; echo $?"
	s.uplink.take()
	if got := s.in(t, secGuest, direct); !strings.Contains(got, "124") {
		t.Errorf("the guest's connection past Tor ended with %q, want nobody to answer", got)
	}
	s.probe(t)
	s.wantOnlyTor(t)
	s.in(t, secFirewall, "sudo nft 'add table ip t; add chain ip t c { type nat hook postrouting priority 100; }; add rule ip t c oifname outer ip protocol != tcp masquerade'")
	s.probe(t)
	s.wantOnlyTor(t)
	s.in(t, secFirewall, "sudo sysctl -q net.ipv4.ip_forward=0; sudo nft flush ruleset; sudo systemctl restart nftables")
	s.awaitExit(t, fetch(webName))
}

// withoutOuter takes the host's rules for the family away, lets the host forward
// anything, and looks at what comes out of the firewall.
func (s sec) withoutOuter(t *testing.T) {
	for _, argv := range [][]string{
		{"nft", "delete table inet meros_mos_sec; delete table bridge meros_mos_sec"},
		{"nft", "add table ip t; add chain ip t c { type nat hook postrouting priority 100; }; add rule ip t c oifname " + uplink + " masquerade"},
		{"sysctl", "-qw", "net.ipv4.ip_forward=1"},
	} {
		command(t, argv...)
	}
	wantFailure(t, meros(t, s.root, "info", "--check", "mos_sec"), 1, "mos_sec", "gone")
	outer := watch(t, "mos_sec_up")
	s.uplink.take()
	s.awaitExit(t, fetch(webName))
	s.probe(t)
	s.wantOnlyTor(t)
	for _, f := range outer.take() {
		firewall := netip.MustParseAddr("10.60.20.2")
		if session := f.From == firewall && f.SourcePort == 2022 || f.To == firewall && f.DestPort == 2022; !session {
			s.wantTor(t, f, firewall)
		}
	}
	command(t, "nft", "delete table ip t")
	mustRun(t, s.root, "policy", "apply", "mos_sec")
	mustRun(t, s.root, "info", "--check", "mos_sec")
	s.awaitExit(t, fetch(webName)) // its connections were cut
}
