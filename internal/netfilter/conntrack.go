package netfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Numbers of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctGet, ctDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1, unix.NFNL_SUBSYS_CTNETLINK<<8 | 2

	ctTupleOrig, ctTupleReply, ctZone = 1, 2, 18
	ctTupleIP                         = 1
)

// Cut ends the connections that the kernel tracks for any of these addresses, so
// that what goes on is judged anew. It returns how many there were.
func Cut(addrs []netip.Addr) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, fmt.Errorf("cut connections: %w", err)
	}
	defer unix.Close(fd)
	mine := map[netip.Addr]bool{}
	for _, a := range addrs {
		mine[a] = true
	}
	n := 0
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		entries, err := dumpConns(fd, family)
		if err != nil {
			return n, fmt.Errorf("list connections: %w", err)
		}
		for _, e := range entries {
			if !e.touches(mine) {
				continue
			}
			if err := talk(fd, ctDelete, unix.NLM_F_ACK, family, e.attrs(), nil); err != nil && !errors.Is(err, unix.ENOENT) {
				return n, fmt.Errorf("cut a connection: %w", err)
			}
			n++
		}
	}
	return n, nil
}

// conn is an entry of the kernel's table: its attributes by type, as they came.
type conn map[uint16][]byte

func dumpConns(fd int, family byte) ([]conn, error) {
	var all []conn
	err := talk(fd, ctGet, unix.NLM_F_DUMP, family, nil, func(body []byte) { all = append(all, attributes(body)) })
	return all, err
}

// attrs names the entry to the kernel.
func (c conn) attrs() []byte {
	out := attribute(ctTupleOrig|unix.NLA_F_NESTED, c[ctTupleOrig])
	if zone, ok := c[ctZone]; ok {
		out = append(out, attribute(ctZone, zone)...)
	}
	return out
}

func (c conn) touches(mine map[netip.Addr]bool) bool {
	for _, tuple := range []uint16{ctTupleOrig, ctTupleReply} {
		for _, raw := range attributes(attributes(c[tuple])[ctTupleIP]) {
			if a, ok := netip.AddrFromSlice(raw); ok && mine[a] {
				return true
			}
		}
	}
	return false
}

func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&3)...)
}

func attributes(b []byte) conn {
	all := conn{}
	for len(b) >= 4 {
		length := int(binary.NativeEndian.Uint16(b))
		if length < 4 || length > len(b) {
			break
		}
		kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		all[kind] = b[4:length]
		b = b[min(len(b), (length+3)&^3):]
	}
	return all
}

// talk sends one request and hands each answer's attributes to got.
func talk(fd int, kind, flags uint16, family byte, attrs []byte, got func([]byte)) error {
	msg := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+4+len(attrs)))
	msg = binary.NativeEndian.AppendUint16(msg, kind)
	msg = binary.NativeEndian.AppendUint16(msg, unix.NLM_F_REQUEST|flags)
	msg = append(msg, 0, 0, 0, 0, 0, 0, 0, 0, family, 0, 0, 0)
	msg = append(msg, attrs...)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 1<<17)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return err
		}
		for b := buf[:n]; len(b) >= unix.NLMSG_HDRLEN+4; {
			length := int(binary.NativeEndian.Uint32(b))
			if length < unix.NLMSG_HDRLEN+4 || length > len(b) {
				return errors.New("netlink: a message is cut short")
			}
			switch binary.NativeEndian.Uint16(b[4:]) {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				if code := int32(binary.NativeEndian.Uint32(b[16:])); code != 0 {
					return unix.Errno(-code)
				}
				return nil
			default:
				if got != nil {
					got(append([]byte{}, b[20:length]...))
				}
			}
			b = b[min(len(b), (length+3)&^3):]
		}
	}
}
