package e2e

import (
	"cmp"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meros/internal/virt/virttest"
)

// hostKind is something that a host may have of its own before a family comes.
type hostKind struct {
	name      string
	lay, lift string   // shell lines of the test's own; no input of anybody is in them
	says      []string // that init has to say
	runs      string   // shell lines that succeed while the family runs
	refuses   []string // or why it has to refuse

	network, policy string // of the family, where they are not openNetwork and outPolicy
	// What somebody changes while the family runs and before another comes, as shell
	// lines: those that do it, those that succeed as long as it is done, those that undo it.
	set, kept, unset string
}

const (
	openNetwork = `<network><forward mode="open"/><bridge name="e2e_tiny_lan"/><dns enable="no"/><ip address="10.64.77.1" prefix="24"/></network>`
	dualNetwork = `<network><forward mode="open"/><bridge name="e2e_tiny_lan"/><dns enable="no"/><ip address="10.64.77.1" prefix="24"/>
<ip family="ipv6" address="fd00:e2e:77::1" prefix="64"/></network>`
	outPolicy = `<policy><port target="box" network="lan" addr="10.64.77.2"/>
<allow from="box" to="internet"/><allow from="host" to="box" proto="tcp" ports="22"/></policy>`
	inPolicy = `<policy><port target="box" network="lan" addr="10.64.77.2"/><allow from="host" to="box" proto="tcp" ports="22"/></policy>`
	noPolicy = "none"

	// forwards checks the switches of the host's links, each with a digit.
	forwards = `forwards() { want=$1; shift; got=; for link; do got=$got$(cat /proc/sys/net/$link/forwarding); done; test $got = $want; }
`
)

var hostKinds = []hostKind{
	{
		name: "nftables of its own",
		lay: `nft -f - <<'END'
table inet mine {
	comment "of the person who runs this host"
	set friends { type ipv4_addr; flags interval; elements = { 192.0.2.0/24, 198.51.100.7 } }
	counter seen { }
	chain in { type filter hook input priority filter; policy accept; ip saddr @friends counter name seen accept; tcp dport { 22, 80 } accept; }
	chain passing { type filter hook forward priority filter; policy accept; ct state invalid drop; }
}
table bridge mine { chain f { type filter hook forward priority 0; policy accept; }; }
table ip6 old { chain c { type nat hook postrouting priority 100; oifname "nothing" masquerade; }; }
END`,
		lift: `nft delete table inet mine; nft delete table bridge mine; nft delete table ip6 old`,
		says: []string{"the chain passing of the table inet mine judges packets too"},
	},
	{
		name: "iptables, as docker leaves it",
		lay: `iptables-nft -P FORWARD DROP; iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER; iptables-nft -A DOCKER-USER -j RETURN
iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 '!' -o docker0 -j MASQUERADE
ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up; sysctl -qw net.ipv4.ip_forward=1`,
		lift: `sysctl -qw net.ipv4.ip_forward=0; ip link del docker0; iptables-nft -t nat -F POSTROUTING; iptables-nft -D FORWARD -j DOCKER-USER
iptables-nft -F DOCKER-USER; iptables-nft -X DOCKER-USER; iptables-nft -P FORWARD ACCEPT`,
		says: []string{"the chain FORWARD of the table ip filter drops what it does not know", "lan or internet passes it too"},
	},
	{
		name: "a VPN with policy routing",
		lay: `ip tuntap add e2evpn mode tun; ip addr add 10.99.0.2/32 dev e2evpn; ip link set e2evpn up
ip route add default dev e2evpn table 51820; ip rule add not fwmark 51820 table 51820 priority 900; ip rule add table main suppress_prefixlength 0 priority 890`,
		lift: `ip rule del priority 890; ip rule del priority 900; ip link del e2evpn`,
		// What comes back by the VPN is passed on to the guest, and nothing else is.
		runs: forwards + `forwards 110 ipv4/conf/e2evpn ipv4/conf/e2eup ipv4/conf/lo
nft list table inet meros | grep -q 'iifname != { "e2eup", "e2evpn" } accept'`,
	},
	{
		name: "forwarding that somebody sets later",
		set:  `sysctl -qw net.ipv4.ip_forward=1`, unset: `sysctl -qw net.ipv4.ip_forward=0`,
		kept: forwards + `forwards 111 ipv4/conf/all ipv4/conf/lo ipv4/conf/e2eup`,
	},
	{
		name: "a link that somebody opens later",
		set:  `sysctl -qw net.ipv4.conf.lo.forwarding=1`, unset: `sysctl -qw net.ipv4.conf.lo.forwarding=0`,
		kept: forwards + `forwards 01 ipv4/conf/all ipv4/conf/lo`,
	},
	{
		name: "a family without a policy", policy: noPolicy, network: dualNetwork,
		runs: forwards + `forwards 1111 ipv4/conf/lo ipv4/conf/e2eup ipv4/conf/e2e_tiny_lan ipv6/conf/all; ! nft list table inet meros`,
	},
	{
		name: "a family without a policy, and forwarding that somebody sets later", policy: noPolicy,
		set: `sysctl -qw net.ipv4.ip_forward=1`, unset: `sysctl -qw net.ipv4.ip_forward=0`,
		kept: forwards + `forwards 111 ipv4/conf/all ipv4/conf/lo ipv4/conf/e2eup`,
	},
	{
		name: "a policy that lets nobody out", policy: inPolicy, network: dualNetwork,
		runs: forwards + `forwards 00000 ipv4/conf/all ipv4/conf/lo ipv4/conf/e2eup ipv4/conf/e2e_tiny_lan ipv6/conf/all`,
	},
	{
		name: "IPv4, forwarded", network: dualNetwork,
		lay: `sysctl -qw net.ipv4.ip_forward=1`, lift: `sysctl -qw net.ipv4.ip_forward=0`,
		runs: forwards + `forwards 1100 ipv4/conf/all ipv4/conf/e2e_tiny_lan ipv6/conf/all ipv6/conf/e2eup`,
	},
	{
		name: "IPv6, forwarded", network: dualNetwork,
		runs: forwards + `forwards 0111 ipv4/conf/all ipv4/conf/e2eup ipv6/conf/all ipv6/conf/e2eup`,
		lay:  `ip addr add fd00:e2e::1/64 dev e2eup nodad; sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.conf.e2eup.accept_ra=2; ip -6 route add default via fd00:e2e::2`,
		lift: `ip -6 route del default; sysctl -qw net.ipv6.conf.all.forwarding=0 net.ipv6.conf.e2eup.accept_ra=1; ip addr del fd00:e2e::1/64 dev e2eup`,
	},
	{
		name:    "a subnet that overlaps",
		lay:     `ip route add 10.64.0.0/16 dev e2eup`,
		lift:    `ip route del 10.64.0.0/16`,
		refuses: []string{"10.64.77.0/24", "10.64.0.0/16", "e2eup"},
	},
	{
		name:    "the very subnet",
		lay:     `ip addr add 10.64.77.200/24 dev e2eup`,
		lift:    `ip addr del 10.64.77.200/24 dev e2eup`,
		refuses: []string{"10.64.77.0/24", "e2eup"},
	},
}

// TestHostsOwnRules brings a family that the host forwards for to hosts of all kinds:
// whatever they have of their own is after it what it was before, byte for byte.
func TestHostsOwnRules(t *testing.T) {
	needHost(t)
	if !onPrivateHost(t) {
		return
	}
	root := tinyRoot(t)
	k := hostKind{}
	k.recipe(t, root)
	besideTiny(t, root)
	// An address that is being looked for twice changes its state by itself.
	shell(t, `sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
ip link add e2eup type veth peer name e2efar; ip addr add 192.0.2.2/24 dev e2eup; ip link set e2eup up; ip link set e2efar up; ip route add default via 192.0.2.1`)
	mustRun(t, root, "init", tinyFamily, "--disposable") // what libvirt and the kernel keep of a first time is no concern of ours
	mustRun(t, root, "shutdown", "--force")
	for _, k := range hostKinds {
		t.Run(k.name, func(t *testing.T) {
			k.recipe(t, root)
			shell(t, k.lay)
			defer shell(t, k.lift)
			defer meros(t, root, "shutdown", "--force") // of what failed half-way
			shell(t, k.set)
			before := settledNet(t)
			shell(t, k.unset)
			k.comes(t, root)
			if k.set != "" {
				shell(t, k.set)
				defer shell(t, k.unset)
				mustRun(t, root, "init", besideFamily, "--disposable")
				shell(t, k.kept)
				mustRun(t, root, "shutdown", tinyFamily, "--force")
				shell(t, k.kept)
			}
			mustRun(t, root, "shutdown", "--force")
			wantSame(t, before, settledNet(t))
		})
	}
}

// recipe gives the tiny family what it has on a host of this kind.
func (k hostKind) recipe(t *testing.T, root string) {
	t.Helper()
	write(t, root, tinyFamily+"/libvirt/lan.xml", cmp.Or(k.network, openNetwork), 0o644)
	if k.policy == noPolicy {
		remove(t, root, tinyFamily+"/netfilter/policy.xml")
		return
	}
	write(t, root, tinyFamily+"/netfilter/policy.xml", cmp.Or(k.policy, outPolicy), 0o644)
}

// comes starts the tiny family, or sees it refuse.
func (k hostKind) comes(t *testing.T, root string) {
	t.Helper()
	r := meros(t, root, "init", tinyFamily, "--disposable")
	for _, words := range k.says {
		if !strings.Contains(r.err, words) {
			t.Errorf("init does not say %q:\n%s", words, r.err)
		}
	}
	switch {
	case k.refuses != nil:
		wantFailure(t, r, 1, k.refuses...)
	case r.code != 0:
		t.Fatalf("init: exit status %d\n%s", r.code, r.err)
	default:
		mustRun(t, root, "info", "--check", tinyFamily)
		shell(t, k.runs)
	}
}

// besideFamily is another such family in the same root.
const besideFamily = "e2e_beside"

func besideTiny(t *testing.T, root string) {
	t.Helper()
	other := strings.NewReplacer("10.64.77.", "10.64.78.", "e2e_tiny_lan", "e2e_beside_lan")
	write(t, root, besideFamily+"/libvirt/box.xml", virttest.OnNetwork(), 0o644)
	write(t, root, besideFamily+"/libvirt/lan.xml", other.Replace(openNetwork), 0o644)
	write(t, root, besideFamily+"/netfilter/policy.xml", other.Replace(outPolicy), 0o644)
	disk := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(disk, virttest.Guest(), 0o644); err != nil {
		t.Fatal(err)
	}
	mustRun(t, root, "import", besideFamily+"-box", disk)
}

func shell(t *testing.T, lines string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", lines).CombinedOutput(); err != nil {
		t.Fatalf("%s\n%v: %s", lines, err, out)
	}
}

// allOfNet is the whole state of a private host's network, as its own programs print it.
func allOfNet(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for what, argv := range map[string][]string{
		"rules": {"nft", "-s", "-a", "list", "ruleset"}, "iptables": {"iptables-nft-save"}, "links": {"ip", "-o", "link"},
		"addresses": {"ip", "-o", "address"}, "routes": {"ip", "route", "show", "table", "all"}, "routes of IPv6": {"ip", "-6", "route", "show", "table", "all"},
		"rules of routing": {"ip", "rule"}, "rules of routing of IPv6": {"ip", "-6", "rule"}, "neighbours": {"ip", "neigh", "show", "nud", "permanent"},
		"sysctls": {"sysctl", "-a", "--pattern", `^net\.(ipv4|ipv6|bridge|netfilter)\.`},
	} {
		out, err := exec.Command(argv[0], argv[1:]...).Output()
		if err != nil {
			t.Fatalf("%q: %v", argv, err)
		}
		for line := range strings.Lines(string(out)) {
			if !changesByItself(line) {
				all[what] += line
			}
		}
	}
	return all
}

// settledNet waits until nothing changes any more: links take a second to say that
// they have no carrier.
func settledNet(t *testing.T) map[string]string {
	t.Helper()
	last := allOfNet(t)
	for same, deadline := 0, time.Now().Add(30*time.Second); same < 3; {
		if time.Now().After(deadline) {
			t.Fatal("the network of this host does not settle")
		}
		time.Sleep(500 * time.Millisecond)
		now := allOfNet(t)
		if same++; !maps.Equal(now, last) {
			same = 0
		}
		last = now
	}
	return last
}

// changesByItself is what the kernel counts, and dates that programs print.
func changesByItself(line string) bool {
	for _, word := range []string{"nf_conntrack_count", "# Generated by", "# Completed on", "stable_secret", "route.gc", "fib_sync", "tcp_fastopen_key"} {
		if strings.Contains(line, word) {
			return true
		}
	}
	return strings.HasPrefix(line, ":") // iptables's chains, with what they counted; nft lists them too
}

func wantSame(t *testing.T, before, after map[string]string) {
	t.Helper()
	for what := range before {
		if before[what] != after[what] {
			t.Errorf("%s: the host is left as\n%s\nwas\n%s", what, after[what], before[what])
		}
	}
}
