package virt

import (
	"encoding/binary"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"
)

// TestHostNet reads the routes of a network namespace of its own, in which they are
// known.
func TestHostNet(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a network namespace")
	}
	type answer struct {
		net HostNet
		up  []string
		err error
	}
	done := make(chan answer)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends in its namespace
		var a answer
		if a.err = syscall.Unshare(syscall.CLONE_NEWNET); a.err == nil {
			for _, line := range [][]string{
				{"link", "set", "lo", "up"},
				{"link", "add", "d0", "type", "veth", "peer", "name", "d1"},
				{"address", "add", "192.0.2.1/24", "dev", "d0"},
				{"address", "add", "198.51.100.7/24", "dev", "d0", "noprefixroute"},
				{"address", "add", "2001:db8::1/64", "dev", "d0", "nodad"},
				{"link", "set", "d0", "up"},
				{"link", "set", "d1", "up"},
				{"route", "add", "default", "via", "192.0.2.9"},
				{"route", "add", "0.0.0.0/1", "dev", "d0"},
				{"route", "add", "203.0.113.0/25", "dev", "d0", "table", "77"},
				{"route", "add", "203.0.113.128/25", "nexthop", "via", "192.0.2.2", "nexthop", "via", "192.0.2.3"},
				{"route", "add", "unreachable", "10.0.0.0/8"},
			} {
				if out, err := exec.Command("ip", line...).CombinedOutput(); err != nil {
					t.Errorf("ip %q: %v: %s", line, err, out)
				}
			}
			// The kernel makes the routes of a new IPv6 address in its own time.
			for deadline := time.Now().Add(10 * time.Second); a.err == nil && len(a.net.Addrs) < 3 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
				a.net, a.err = ReadHostNet()
			}
			a.up = Uplinks()
		}
		done <- a
	}()
	a := <-done
	if a.err != nil {
		t.Fatal(a.err)
	}
	on := func(subnet string) Route { return Route{netip.MustParsePrefix(subnet), "d0"} }
	wantSet(t, "routes", a.net.Routes, on("192.0.2.0/24"), on("203.0.113.0/25"), on("203.0.113.128/25"), on("2001:db8::/64"))
	wantSet(t, "addresses", a.net.Addrs, on("192.0.2.1/32"), on("198.51.100.7/32"), on("2001:db8::1/128"))
	wantSet(t, "uplinks", a.up, "d0")
}

func wantSet[T comparable](t *testing.T, what string, got []T, want ...T) {
	t.Helper()
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("%s: no %v in %v", what, w, got)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestParseRouteOfAnyBytes(t *testing.T) {
	for _, data := range [][]byte{nil, make([]byte, 11), make([]byte, 12), {2, 99, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0, 255, 255, 1, 0}} {
		m := syscall.NetlinkMessage{Data: data}
		m.Header.Type = syscall.RTM_NEWROUTE
		if r, ok := parseRoute(m); ok {
			t.Errorf("%v is taken for %v", data, r)
		}
	}
	short := []byte{2, 24, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 10, 0, 0, 0}
	binary.NativeEndian.PutUint16(short[12:], 6)
	m := syscall.NetlinkMessage{Data: short}
	m.Header.Type = syscall.RTM_NEWROUTE
	if r, ok := parseRoute(m); ok {
		t.Errorf("an address of two bytes is taken for %v", r)
	}
}
