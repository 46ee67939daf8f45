package virt

import (
	"encoding/binary"
	"net"
	"slices"
	"syscall"
)

// mostDefault is the longest prefix that a default route has: some VPNs halve the
// world, so that their routes are preferred to the one they leave in place.
const mostDefault = 1

// Uplinks returns the links that the host's default routes leave by, of all routing
// tables: a VPN with policy routing keeps its own in one of its own.
func Uplinks() []string {
	rib, err := syscall.NetlinkRIB(syscall.RTM_GETROUTE, syscall.AF_INET)
	if err != nil {
		return nil
	}
	messages, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return nil
	}
	var links []string
	for _, m := range messages {
		index, ok := defaultRoute(m)
		if !ok {
			continue
		}
		if l, err := net.InterfaceByIndex(index); err == nil && !slices.Contains(links, l.Name) {
			links = append(links, l.Name)
		}
	}
	slices.Sort(links)
	return links
}

// Where struct rtmsg (rtnetlink(7)) has the length of the prefix and the kind of the
// route.
const rtmBits, rtmKind = 1, 7

// defaultRoute returns the link of a default route.
func defaultRoute(m syscall.NetlinkMessage) (link int, ok bool) {
	if m.Header.Type != syscall.RTM_NEWROUTE || len(m.Data) < syscall.SizeofRtMsg ||
		m.Data[rtmBits] > mostDefault || m.Data[rtmKind] != syscall.RTN_UNICAST {
		return 0, false
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(&m)
	if err != nil {
		return 0, false
	}
	for _, a := range attrs {
		if a.Attr.Type == syscall.RTA_OIF && len(a.Value) == 4 {
			return int(binary.NativeEndian.Uint32(a.Value)), true
		}
	}
	return 0, false
}
