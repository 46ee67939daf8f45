package virt

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Bridges returns the bridges of this host, each with whether it leads out of it: by a
// port that is a network card or stands on one, or by a default route. On those that do
// not are guests and containers alone.
func Bridges() (map[string]bool, error) {
	links, err := kernelLinks()
	if err != nil {
		return nil, fmt.Errorf("list the host's links: %w", err)
	}
	uplinks := Uplinks()
	leads := map[string]bool{}
	for _, b := range links {
		if b.kind == "bridge" {
			leads[b.name] = slices.Contains(uplinks, b.name) ||
				slices.ContainsFunc(links, func(l kernelLink) bool { return l.master == b.index && !slices.Contains(guestKinds, l.kind) })
		}
	}
	return leads, nil
}

// guestKinds are the kinds of links by which guests and containers are on a bridge. A
// network card has no kind.
var guestKinds = []string{"tun", "veth"}

// kernelLink is a link as the kernel keeps it.
type kernelLink struct {
	name, kind    string
	index, master int
}

// kernelLinks lists the links with what they are, which the standard library leaves out
// (rtnetlink(7), RTM_GETLINK).
func kernelLinks() ([]kernelLink, error) {
	answer, err := syscall.NetlinkRIB(syscall.RTM_GETLINK, syscall.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	messages, err := syscall.ParseNetlinkMessage(answer)
	if err != nil {
		return nil, err
	}
	var links []kernelLink
	for _, m := range messages {
		if m.Header.Type != syscall.RTM_NEWLINK || len(m.Data) < syscall.SizeofIfInfomsg {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return nil, err
		}
		l := kernelLink{index: int(int32(binary.NativeEndian.Uint32(m.Data[4:])))}
		for _, a := range attrs {
			switch {
			case a.Attr.Type == unix.IFLA_IFNAME:
				l.name = strings.TrimRight(string(a.Value), "\x00")
			case a.Attr.Type == unix.IFLA_MASTER && len(a.Value) == 4:
				l.master = int(binary.NativeEndian.Uint32(a.Value))
			case a.Attr.Type&^unix.NLA_F_NESTED == unix.IFLA_LINKINFO:
				l.kind = linkKind(a.Value)
			}
		}
		links = append(links, l)
	}
	return links, nil
}

// linkKind finds the kind among what else a link says of itself: attributes of a length,
// a type and a value, each padded to four bytes (netlink(7)).
func linkKind(b []byte) string {
	const head = 4
	for len(b) >= head {
		size := int(binary.NativeEndian.Uint16(b))
		if size < head || size > len(b) {
			break
		}
		if binary.NativeEndian.Uint16(b[2:]) == unix.IFLA_INFO_KIND {
			return strings.TrimRight(string(b[head:size]), "\x00")
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return ""
}
