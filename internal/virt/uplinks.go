package virt

import (
	"net"
	"slices"

	"golang.org/x/sys/unix"
)

// Uplinks returns the links that the host's default routes leave by, of all routing
// tables: a VPN with policy routing keeps its own in one of its own.
func Uplinks() []string {
	routes, err := kernelRoutes()
	if err != nil {
		return nil
	}
	var links []string
	for _, r := range routes {
		if r.kind != unix.RTN_UNICAST || r.subnet.Bits() >= widest || !r.subnet.Addr().Is4() {
			continue
		}
		if l, err := net.InterfaceByIndex(r.link); err == nil && !slices.Contains(links, l.Name) {
			links = append(links, l.Name)
		}
	}
	slices.Sort(links)
	return links
}
