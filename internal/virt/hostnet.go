package virt

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// HostNet is what the host's own network has taken.
type HostNet struct {
	Links  []string
	Routes []Route // of all routing tables; default and loopback routes left out
	Addrs  []Route // the host's own addresses, loopback ones left out
}

// Route is a subnet that the host reaches through a link.
type Route struct {
	Subnet netip.Prefix
	Link   string
}

// ReadHostNet asks the kernel for links, addresses and routes.
func ReadHostNet() (HostNet, error) {
	var h HostNet
	links, err := net.Interfaces()
	if err != nil {
		return h, fmt.Errorf("list the host's links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		h.Links = append(h.Links, l.Name)
		names[l.Index] = l.Name
	}
	routes, err := kernelRoutes()
	if err != nil {
		return h, fmt.Errorf("list the host's routes: %w", err)
	}
	for _, r := range routes {
		at := Route{r.subnet, names[r.link]}
		switch {
		case r.kind == unix.RTN_LOCAL && !slices.Contains(h.Addrs, at):
			h.Addrs = append(h.Addrs, at)
		case r.kind == unix.RTN_UNICAST && r.subnet.Bits() >= widest && !slices.Contains(h.Routes, at):
			h.Routes = append(h.Routes, at)
		}
	}
	return h, nil
}

// widest is the shortest prefix that is a subnet of somebody; what is shorter is a
// default route. Some VPNs halve the world, so that their routes are preferred to the
// one they leave in place.
const widest = 2

// kernelRoute is a route as the kernel keeps it.
type kernelRoute struct {
	kind   byte // unix.RTN_UNICAST or RTN_LOCAL, which is an address
	subnet netip.Prefix
	link   int // index of the first link that it leaves by
}

// kernelRoutes lists the routes of all tables, of which /proc/net/route shows the
// main one alone (rtnetlink(7), RTM_GETROUTE).
func kernelRoutes() ([]kernelRoute, error) {
	answer, err := syscall.NetlinkRIB(syscall.RTM_GETROUTE, syscall.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	messages, err := syscall.ParseNetlinkMessage(answer)
	if err != nil {
		return nil, err
	}
	var routes []kernelRoute
	for _, m := range messages {
		if r, ok := parseRoute(m); ok {
			routes = append(routes, r)
		}
	}
	return routes, nil
}

// parseRoute reads one message. What is no route to unicast addresses, or to those
// of one link or host alone, is left out.
func parseRoute(m syscall.NetlinkMessage) (r kernelRoute, ok bool) {
	if m.Header.Type != syscall.RTM_NEWROUTE || len(m.Data) < syscall.SizeofRtMsg {
		return r, false
	}
	family, bits := m.Data[0], int(m.Data[1])
	r.kind = m.Data[7]
	attrs, err := syscall.ParseNetlinkRouteAttr(&m)
	if err != nil || r.kind != unix.RTN_UNICAST && r.kind != unix.RTN_LOCAL {
		return r, false
	}
	addr := netip.IPv4Unspecified() // a default route names no address
	switch family {
	case syscall.AF_INET:
	case syscall.AF_INET6:
		addr = netip.IPv6Unspecified()
	default:
		return r, false
	}
	for _, a := range attrs {
		switch {
		case a.Attr.Type == unix.RTA_DST:
			if addr, ok = netip.AddrFromSlice(a.Value); !ok {
				return r, false
			}
		case a.Attr.Type == unix.RTA_OIF && len(a.Value) == 4:
			r.link = int(binary.NativeEndian.Uint32(a.Value))
		case a.Attr.Type == unix.RTA_MULTIPATH && len(a.Value) >= syscall.SizeofRtNexthop:
			r.link = int(binary.NativeEndian.Uint32(a.Value[4:]))
		}
	}
	if addr.IsLoopback() || addr.IsMulticast() || addr.IsLinkLocalUnicast() {
		return r, false
	}
	r.subnet, err = addr.Prefix(bits)
	return r, err == nil
}
