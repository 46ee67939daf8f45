package virt

import (
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// inNetns runs a test in a network namespace of its own, and reports whether it is there.
func inNetns(t *testing.T) bool {
	t.Helper()
	if os.Getenv("MEROS_TEST_NETNS") == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), "MEROS_TEST_NETNS=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if os.Geteuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Errorf("in a network namespace: %v\n%s", err, out)
		}
	}
	return os.Getenv("MEROS_TEST_NETNS") != ""
}

// ipBatch has ip(8) carry out lines.
func ipBatch(t *testing.T, lines string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(lines)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestBridges is of a host with bridges of each kind.
func TestBridges(t *testing.T) {
	if !inNetns(t) {
		return
	}
	ipBatch(t, "link set lo up\nlink add guests type bridge\nlink add taps type bridge\nlink add card type bridge\nlink add way type bridge\nlink add empty type bridge\n"+
		"link add veth9 type veth peer name peer9\nlink set veth9 master guests\ntuntap add tap9 mode tap\nlink set tap9 master taps\n"+
		"link add eth9 type ifb\nlink set eth9 master card\naddr add 192.0.2.2/24 dev way\nlink set way up\nroute add default via 192.0.2.1\n")
	got, err := Bridges()
	want := map[string]bool{"guests": false, "taps": false, "card": true, "way": true, "empty": false}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("Bridges = %v, %v, want %v", got, err, want)
	}
}

// TestUplinks is of a host with two ways out: its own, and a VPN's by a table of its
// own or by two halves of the world.
func TestUplinks(t *testing.T) {
	if !inNetns(t) {
		return
	}
	ip := func(lines string) { ipBatch(t, lines) }
	want := func(links ...string) {
		t.Helper()
		if got := Uplinks(); !slices.Equal(got, links) {
			t.Errorf("Uplinks = %q, want %q", got, links)
		}
	}
	ip("link set lo up\nlink add eth9 type veth peer name peer9\nlink add wg9 type veth peer name peer8\n" +
		"addr add 192.0.2.2/24 dev eth9\naddr add 10.99.0.2/32 dev wg9\nlink set eth9 up\nlink set peer9 up\nlink set wg9 up\nlink set peer8 up\n")
	want()
	ip("route add default via 192.0.2.1\n")
	want("eth9")
	ip("route add default dev wg9 table 51820\nrule add not fwmark 51820 table 51820\n")
	want("eth9", "wg9")
	ip("route flush table 51820\nroute add 0.0.0.0/1 dev wg9\nroute add 128.0.0.0/1 dev wg9\n")
	want("eth9", "wg9")
	ip("route flush dev wg9\nroute add blackhole default metric 9000\n")
	want("eth9")
}
