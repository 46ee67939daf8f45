package netfilter

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// Numbers of IEEE 802 and IANA that frames are made of.
const (
	etherIP4, etherARP, etherIP6, etherVLAN, etherQinQ = 0x0800, 0x0806, 0x86dd, 0x8100, 0x88a8

	protoICMP, protoTCP, protoUDP, protoICMP6, protoSCTP = 1, 6, 17, 58, 132

	// Extension headers of IPv6.
	protoHopByHop, protoRouting, protoFragment, protoAuth, protoDestination = 0, 43, 44, 51, 60

	tcpFIN, tcpSYN, tcpRST, tcpACK = 0x01, 0x02, 0x04, 0x10
)

// frame is an Ethernet frame while it is made.
type frame struct {
	dst, src net.HardwareAddr
	from, to netip.Addr
	proto    byte
	fragment uint16 // flags and offset of the IPv4 header
	hops     byte   // hop limit of IPv6; 0 is 255
	options  []byte // of the IPv4 header: whole words
	before   byte   // the kind of IPv6 extension header that stands before the body, where extra is there
	extra    []byte // that header; its first byte is filled
	body     []byte
}

func ethernet(dst, src net.HardwareAddr, kind uint16, body []byte) []byte {
	out := append(append(append([]byte{}, dst...), src...), byte(kind>>8), byte(kind))
	return append(out, body...)
}

// bytes writes the frame with its checksums.
func (f frame) bytes() []byte {
	body := append([]byte{}, f.body...)
	f.checksum(body)
	if f.from.Is6() {
		head := make([]byte, 40)
		head[0] = 0x60
		head[6], head[7] = f.proto, f.hops
		if f.hops == 0 {
			head[7] = 255
		}
		if len(f.extra) > 0 {
			body = append(append([]byte{f.proto}, f.extra[1:]...), body...)
			head[6] = f.before
		}
		binary.BigEndian.PutUint16(head[4:], uint16(len(body)))
		copy(head[8:], f.from.AsSlice())
		copy(head[24:], f.to.AsSlice())
		return ethernet(f.dst, f.src, etherIP6, append(head, body...))
	}
	head := append(make([]byte, 20), f.options...)
	head[0] = 0x40 | byte(len(head)/4)
	binary.BigEndian.PutUint16(head[2:], uint16(len(head)+len(body)))
	binary.BigEndian.PutUint16(head[4:], 0x4242)
	binary.BigEndian.PutUint16(head[6:], f.fragment)
	head[8], head[9] = 64, f.proto
	copy(head[12:], f.from.AsSlice())
	copy(head[16:], f.to.AsSlice())
	binary.BigEndian.PutUint16(head[10:], sum(head, 0))
	return ethernet(f.dst, f.src, etherIP4, append(head, body...))
}

// checksum fills the checksum of what the packet carries.
func (f frame) checksum(body []byte) {
	at := map[byte]int{protoTCP: 16, protoUDP: 6, protoICMP: 2, protoICMP6: 2}[f.proto]
	if at == 0 || len(body) < at+2 || f.fragment&0x1fff != 0 {
		return
	}
	var pseudo uint32
	if f.proto != protoICMP {
		for _, a := range [][]byte{f.from.AsSlice(), f.to.AsSlice()} {
			for i := 0; i < len(a); i += 2 {
				pseudo += uint32(a[i])<<8 | uint32(a[i+1])
			}
		}
		pseudo += uint32(f.proto) + uint32(len(body))
	}
	body[at], body[at+1] = 0, 0
	binary.BigEndian.PutUint16(body[at:], sum(body, pseudo))
}

// sum is the Internet checksum: RFC 1071.
func sum(b []byte, start uint32) uint16 {
	s := start
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i]) << 8
		if i+1 < len(b) {
			s += uint32(b[i+1])
		}
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

func tcp(from, to uint16, flags byte, token []byte) []byte {
	b := make([]byte, 20, 20+len(token))
	binary.BigEndian.PutUint16(b, from)
	binary.BigEndian.PutUint16(b[2:], to)
	binary.BigEndian.PutUint32(b[4:], 1000)
	if flags&tcpACK != 0 {
		binary.BigEndian.PutUint32(b[8:], 1001+uint32(len(token)))
	}
	b[12], b[13], b[14] = 5<<4, flags, 0x20
	return append(b, token...)
}

func udp(from, to uint16, token []byte) []byte {
	b := make([]byte, 8, 8+len(token))
	binary.BigEndian.PutUint16(b, from)
	binary.BigEndian.PutUint16(b[2:], to)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(token)))
	return append(b, token...)
}

// echo is an ICMP message of a type that has an id; request or reply.
func echo(kind byte, id uint16, token []byte) []byte {
	b := make([]byte, 8, 8+len(token))
	b[0] = kind
	binary.BigEndian.PutUint16(b[4:], id)
	return append(b, token...)
}

// discovery6 is a message of neighbour discovery (RFC 4861) about target.
func discovery6(kind byte, target netip.Addr, token []byte) []byte {
	b := append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, target.AsSlice()...)
	return append(b, token...)
}

func arp(op byte, sender net.HardwareAddr, from netip.Addr, to netip.Addr, token []byte) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, op}
	b = append(append(b, sender...), from.AsSlice()...)
	b = append(append(b, 0, 0, 0, 0, 0, 0), to.AsSlice()...)
	return append(b, token...)
}
