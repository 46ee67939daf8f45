package netfilter

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"meros/internal/capture"
	"meros/internal/family"
	"meros/internal/prober"
)

// TestOracle judges frames at the port of a, whose host's end is dev.
func TestOracle(t *testing.T) {
	f := load(t, "pair")
	rules, err := Compile(f, Host{}, testMAC)
	if err != nil {
		t.Fatal(err)
	}
	a, b := rules.Ports[0], rules.Ports[1]
	uplinkAddr := netip.MustParseAddr("192.0.2.2")
	around := Host{Subnets: prefixes("198.51.100.0/24"), Inner: prefixes("192.168.212.0/24")}
	o := NewOracle(f, rules, around, map[netip.Addr]string{a.Host[0].Addr(): a.Bridge, uplinkAddr: "eth0"})
	bridge := net.HardwareAddr{0x52, 0x54, 0, 0xfe, 0, 1}
	host, mine, hers := a.Host[0].Addr(), a.Addrs[0], b.Addrs[0]
	fromHost := func(from netip.Addr, proto byte, body []byte) frame {
		return frame{dst: mac(a.MAC), src: bridge, from: from, to: mine, proto: proto, body: body}
	}
	later := fromHost(host, protoUDP, make([]byte, 24))
	later.fragment = 3
	noUDP := later
	noUDP.proto = protoSCTP
	asked := frame{from: mine, to: host, proto: protoUDP, body: udp(5000, 123, nil)}.bytes()[2:] // without MACs there are none
	never := frame{from: mine, to: host, proto: protoUDP, body: udp(5000, 53, nil)}.bytes()[2:]  // without MACs there are none
	unreachable := func(about []byte) []byte { return append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, about...) }
	for _, c := range []struct {
		name  string
		frame []byte
		link  string
		want  string
	}{
		{"what is allowed", fromHost(host, protoTCP, tcp(4000, 22, tcpSYN, nil)).bytes(), a.Dev, ""},
		{"what is not", fromHost(host, protoTCP, tcp(4000, 23, tcpSYN, nil)).bytes(), a.Dev, "no such packet from host to a"},
		{"an answer", fromHost(host, protoUDP, udp(123, 5000, nil)).bytes(), a.Dev, ""},
		{"a beginning that looks like an answer", fromHost(netip.MustParseAddr("203.0.113.7"), protoTCP, tcp(80, 5000, tcpSYN, nil)).bytes(), a.Dev, "from internet to a"},
		{"another address of the host", fromHost(uplinkAddr, protoTCP, tcp(4000, 22, tcpSYN, nil)).bytes(), a.Dev, "the host's address on eth0"},
		{"a later part", later.bytes(), a.Dev, ""},
		{"a later part of nothing allowed", noUDP.bytes(), a.Dev, "no such packet"},
		{"a guest's part", frame{dst: mac(a.MAC), src: mac(b.MAC), from: hers, to: mine, proto: protoUDP, fragment: 0x2000, body: udp(1, 514, nil)}.bytes(), a.Dev, "no fragments"},
		{"a complaint of what is allowed", fromHost(host, protoICMP, unreachable(asked)).bytes(), a.Dev, ""},
		{"a complaint of what is not", fromHost(host, protoICMP, unreachable(never)).bytes(), a.Dev, "has received it"},
		{"another's address", frame{dst: mac(a.MAC), src: mac(b.MAC), from: host, to: mine, proto: protoUDP, body: udp(1, 514, nil)}.bytes(), a.Dev, "b has not the address"},
		{"arp", ethernet(mac(a.MAC), mac(b.MAC), etherARP, arp(1, mac(b.MAC), hers, mine, nil)), a.Dev, ""},
		{"arp with another's MAC", ethernet(mac(a.MAC), mac(b.MAC), etherARP, arp(2, mac(a.MAC), hers, mine, nil)), a.Dev, "an address that is not b's"},
		{"a tag", ethernet(mac(a.MAC), mac(b.MAC), etherVLAN, []byte{0, 5, 8, 6}), a.Dev, "VLAN tag"},
		{"no IP", ethernet(mac(a.MAC), mac(b.MAC), 0x88b5, nil), a.Dev, "neither IP nor ARP"},
		{"bridged out", ethernet(bridge, mac(a.MAC), etherARP, arp(1, mac(a.MAC), mine, host, nil)), "eth0", "the MAC of a"},
		{"forwarded", frame{dst: bridge, src: bridge, from: mine, to: internetAddr, proto: protoTCP, body: tcp(5000, 80, tcpSYN, nil)}.bytes(), "eth0", ""},
		{"forwarded for b", frame{dst: bridge, src: bridge, from: hers, to: internetAddr, proto: protoTCP, body: tcp(5000, 80, tcpSYN, nil)}.bytes(), "eth0", "from b to internet"},
		{"to the host's own subnet", frame{dst: bridge, src: bridge, from: hers, to: netip.MustParseAddr("198.51.100.9"), proto: protoTCP, body: tcp(5000, 631, tcpSYN, nil)}.bytes(), "eth0", ""},
		{"to another family", frame{dst: bridge, src: bridge, from: hers, to: netip.MustParseAddr("192.168.212.2"), proto: protoTCP, body: tcp(5000, 631, tcpSYN, nil)}.bytes(), "other", "from b to nobody's address"},
		{"the host's own", frame{dst: bridge, src: bridge, from: uplinkAddr, to: internetAddr, proto: protoTCP, body: tcp(5000, 80, tcpSYN, nil)}.bytes(), "eth0", ""},
	} {
		got := o.Judge(capture.Frame{Packet: capture.Decode(c.frame), Link: c.link, Out: true})
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: Judge = %q, want %q", c.name, got, c.want)
		}
	}
	nat := capture.Frame{Packet: capture.Decode(frame{dst: bridge, src: bridge, from: uplinkAddr, to: internetAddr, proto: protoTCP, body: tcp(5000, 80, tcpSYN, nil)}.bytes()), Link: "eth0", Out: true}
	if got := o.Judge(nat, "b"); !strings.Contains(got, "from b to internet") {
		t.Errorf("b's packet under the host's address: Judge = %q", got)
	}
	if got := o.Judge(nat, "a"); got != "" {
		t.Errorf("a's packet under the host's address: Judge = %q", got)
	}
}

// TestJudge takes what guests say for what it is: hearsay.
func TestJudge(t *testing.T) {
	planned := []*Planned{
		{Shot: prober.Shot{ID: 1}, Sender: "a", Receiver: "b", Words: "tcp 80", Pass: true, sent: true, arrived: true},
		{Shot: prober.Shot{ID: 2}, Sender: "a", Receiver: "b", Words: "tcp 81", Pass: true, sent: true, said: prober.Said{Outcome: prober.Answered}},
		{Shot: prober.Shot{ID: 3}, Sender: "a", Receiver: "b", Words: "ping", Pass: true, said: prober.Said{Outcome: prober.Barred}},
		{Shot: prober.Shot{ID: 4}, Sender: "a", Receiver: "b", Words: "tcp 82", sent: true},
		{Shot: prober.Shot{ID: 5}, Sender: "a", Receiver: "b", Words: "udp 80", Pass: true, sent: true, arrived: true, answered: true, Devs: []string{"d"}},
		{Shot: prober.Shot{ID: 6}, Sender: "liar", Receiver: "a", Words: "tcp 80", said: prober.Said{Outcome: prober.Silent}},
		{Shot: prober.Shot{ID: 7}, Sender: family.PeerHost, Receiver: "a", Words: "tcp 22", Pass: true, arrived: true},
	}
	w := &Watch{phase: "p", shots: map[int]*Planned{}}
	for _, s := range planned {
		w.shots[s.ID] = s
	}
	tally, missed := w.Judge()
	if want := (Tally{Phase: "p", Allowed: 4, Untried: 1, Arrived: 2, Forbidden: 1, Unsent: 1}); tally != want {
		t.Errorf("Judge = %+v, want %+v", tally, want)
	}
	want := []Missed{
		{"p", "a", "b", "tcp 81", "it did not arrive", false},
		{"p", "a", "b", "udp 80", "its answer did not get back", false},
		{"p", "liar", "all", "any packet", "the guest was not seen to send anything: nothing of it is verified", true},
	}
	if diff := cmp.Diff(want, missed); diff != "" {
		t.Errorf("missed (-want +got):\n%s", diff)
	}
}
