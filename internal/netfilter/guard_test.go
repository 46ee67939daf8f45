package netfilter

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"meros/internal/proc"
)

// crossing is a host that forwards at all its links, each with a stand-in behind it
// that answers on port 80.
type crossing struct {
	*guests
}

// add gives the host a link with a subnet of its own, 10.62.N.0/24 and fd62:N::/64.
// One that is a bridge has two stand-ins.
func (c crossing) add(link string, n int, bridge bool) {
	c.t.Helper()
	ends := []string{link}
	if bridge {
		c.ip("link", "add", link, "type", "bridge", "stp_state", "0", "forward_delay", "0")
		ends = []string{link + "-0", link + "-1"}
	}
	for i, end := range ends {
		s := c.namespace(end)
		c.all = append(c.all, s)
		c.ip("link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(s.pid))
		if bridge {
			c.ip("link", "set", end, "master", link, "up")
		}
		cmd := s.command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(fmt.Sprintf("link set lo up\nlink set eth0 up\naddr add 10.62.%[1]d.%[2]d/24 dev eth0\naddr add fd62:%[1]d::%[2]d/64 dev eth0 nodad\n", n, i+2))
		if out, err := cmd.CombinedOutput(); err != nil {
			c.t.Fatalf("%v: %s", err, out)
		}
	}
	c.ip("addr", "add", fmt.Sprintf("10.62.%d.1/24", n), "dev", link)
	c.ip("addr", "add", fmt.Sprintf("fd62:%d::1/64", n), "dev", link, "nodad")
	c.ip("link", "set", link, "up")
	for _, end := range ends {
		for version, gateway := range map[string]string{"-4": "10.62.%d.1", "-6": "fd62:%d::1"} {
			if out, err := c.standIn(end).command("ip", version, "route", "add", "default", "via", fmt.Sprintf(gateway, n)).CombinedOutput(); err != nil {
				c.t.Fatalf("%v: %s", err, out)
			}
		}
		c.listen(end)
	}
}

func (c crossing) listen(name string) {
	var l net.Listener
	c.standIn(name).in(c.t, func() (err error) {
		l, err = net.Listen("tcp", ":80")
		return err
	})
	c.t.Cleanup(func() { l.Close() })
}

// reaches reports whether a stand-in gets a connection to an address.
func (c crossing) reaches(from, addr string, within time.Duration) bool {
	got := false
	c.standIn(from).in(c.t, func() error {
		conn, err := net.DialTimeout("tcp", addr, within)
		if got = err == nil; got {
			conn.Close()
		}
		return nil
	})
	return got
}

// TestGuard has a host forward at all links, of which the guard is to hold one, and
// one that is a bridge, to families' bridges.
func TestGuard(t *testing.T) {
	if !inNetns(t) {
		return
	}
	c := crossing{&guests{t: t}}
	for _, kv := range append(sysctls(true), [2]string{"net/ipv6/conf/all/accept_dad", "0"}) {
		if err := os.WriteFile("/proc/sys/"+kv[0], []byte(kv[1]), 0); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	c.ip("link", "set", "lo", "up")
	c.add("out", 1, false)
	c.add("lan", 2, false)
	c.add("family", 3, false)
	c.add("outbr", 4, true)
	must(t, nft(t.Context(), proc.Host{}, `table ip mine { chain c { type nat hook prerouting priority -100; iifname "out" tcp dport 8080 dnat to 10.62.2.2:80; }; }`, nil))
	for _, uplinks := range [][]string{nil, {"out", "outbr"}, nil} {
		guarded := uplinks != nil
		listing, err := Guard{Uplinks: uplinks, Bridges: []string{"family"}}.Load(t.Context(), proc.Host{})
		if err != nil || (listing != "") != guarded {
			t.Fatalf("Load = %q, %v", listing, err)
		}
		for _, way := range []struct {
			name, from, to string
			held           bool
		}{
			{"to another link", "out", "10.62.2.2:80", true},
			{"to another uplink", "out", "10.62.4.2:80", true},
			{"from a bridge", "outbr-0", "10.62.2.2:80", true},
			{"to a family", "out", "10.62.3.2:80", false},
			{"from a bridge to a family", "outbr-1", "10.62.3.2:80", false},
			{"answers to another link", "lan", "10.62.1.2:80", false},
			{"answers to a family", "family", "10.62.1.2:80", false},
			{"to an address that the host has changed", "out", "10.62.1.1:8080", false},
			{"IPv6, which is no affair of families", "out", "[fd62:2::2]:80", false},
			{"within a bridge", "outbr-0", "10.62.4.3:80", false},
		} {
			want, within := !guarded || !way.held, 20*time.Second
			if !want {
				within = 700 * time.Millisecond
			}
			if got := c.reaches(way.from, way.to, within); got != want {
				t.Errorf("guarded %v, %s: reaches = %v, want %v", guarded, way.name, got, want)
			}
		}
	}
}
