package virt

import (
	"encoding/hex"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// HostNet is what the host's own network has taken.
type HostNet struct {
	Links  []string
	Routes []Route // default and loopback routes left out
}

// Route is a subnet that the host reaches through a link.
type Route struct {
	Subnet netip.Prefix
	Link   string
}

// ReadHostNet asks the kernel for links and routes.
func ReadHostNet() (HostNet, error) {
	links, err := net.Interfaces()
	if err != nil {
		return HostNet{}, fmt.Errorf("list the host's links: %w", err)
	}
	var h HostNet
	for _, l := range links {
		h.Links = append(h.Links, l.Name)
	}
	for file, parse := range map[string]func([]string) (Route, bool){
		"/proc/net/route":      parseRoute4,
		"/proc/net/ipv6_route": parseRoute6,
	} {
		content, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return HostNet{}, fmt.Errorf("list the host's routes: %w", err)
		}
		h.Routes = append(h.Routes, parseRoutes(string(content), parse)...)
	}
	return h, nil
}

func parseRoutes(content string, parse func([]string) (Route, bool)) []Route {
	var routes []Route
	for line := range strings.Lines(content) {
		r, ok := parse(strings.Fields(line))
		if !ok || r.Subnet.Bits() == 0 || r.Link == "lo" || slices.Contains(routes, r) {
			continue
		}
		if a := r.Subnet.Addr(); a.IsMulticast() || a.IsLinkLocalUnicast() {
			continue
		}
		routes = append(routes, r)
	}
	return routes
}

// parseRoute4 reads a line of /proc/net/route: link, destination and, in the
// eighth column, mask; both are the bytes of the address, last first (proc(5)).
func parseRoute4(f []string) (Route, bool) {
	if len(f) < 8 {
		return Route{}, false
	}
	dest, err := strconv.ParseUint(f[1], 16, 32)
	if err != nil {
		return Route{}, false
	}
	mask, err := strconv.ParseUint(f[7], 16, 32)
	if err != nil {
		return Route{}, false
	}
	addr := netip.AddrFrom4([4]byte{byte(dest), byte(dest >> 8), byte(dest >> 16), byte(dest >> 24)})
	p, err := addr.Prefix(bits.OnesCount64(mask))
	return Route{p, f[0]}, err == nil
}

// parseRoute6 reads a line of /proc/net/ipv6_route: destination, length of its
// prefix in hex, and, in the last column, link.
func parseRoute6(f []string) (Route, bool) {
	if len(f) < 10 {
		return Route{}, false
	}
	raw, err := hex.DecodeString(f[0])
	if err != nil || len(raw) != 16 {
		return Route{}, false
	}
	length, err := strconv.ParseUint(f[1], 16, 8)
	if err != nil {
		return Route{}, false
	}
	p, err := netip.AddrFrom16([16]byte(raw)).Prefix(int(length))
	return Route{p, f[9]}, err == nil
}
