package capture

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Kinds of frames: IEEE 802 numbers, ETHERTYPE.
const (
	EtherIP4  = 0x0800
	EtherARP  = 0x0806
	EtherVLAN = 0x8100
	EtherQinQ = 0x88a8
	EtherIP6  = 0x86dd
)

// Protocols that IP carries: IANA protocol numbers.
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
)

// Types of ICMP and ICMPv6 messages: IANA.
const (
	EchoReply    = 0
	Unreachable  = 3
	Echo         = 8
	TimeExceeded = 11
	ParamProblem = 12

	Unreachable6  = 1
	TooBig6       = 2
	TimeExceeded6 = 3
	ParamProblem6 = 4
	Echo6         = 128
	EchoReply6    = 129
	Solicit6      = 135
	Advert6       = 136
)

// Flags of TCP: RFC 9293, 3.1.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// Packet is a frame as far as it could be decoded; what could not is zero.
type Packet struct {
	Source, Dest net.HardwareAddr // nil on links without them
	VLAN         bool             // it has a tag
	Ether        uint16
	ARP          uint16     // operation; the addresses are From and To
	Hardware     string     // the MAC that an ARP sender claims
	From, To     netip.Addr // of IP or ARP
	Proto        byte       // behind IPv6's extension headers
	Options      bool       // IP options or extension headers
	Fragment     bool       // a part of a packet; ports are known of the first part
	SourcePort   uint16     // of TCP and UDP
	DestPort     uint16
	Flags        byte       // of TCP
	Seq          uint32     // of TCP
	Type, Code   byte       // of ICMP
	About        *Packet    // the packet that an ICMP error is about
	Subject      netip.Addr // of neighbour discovery
	Payload      []byte     // behind all headers; of echoes, behind id and sequence number
	Whole        bool       // every header could be read
}

// Decode reads an Ethernet frame.
func Decode(frame []byte) Packet {
	var p Packet
	if len(frame) < 14 {
		return p
	}
	p.Dest, p.Source = net.HardwareAddr(frame[:6]), net.HardwareAddr(frame[6:12])
	kind, rest := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	for (kind == EtherVLAN || kind == EtherQinQ) && len(rest) >= 4 {
		p.VLAN = true
		kind, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	p.network(kind, rest)
	return p
}

// DecodeIP reads what a link without Ethernet headers carries.
func DecodeIP(kind uint16, b []byte) Packet {
	var p Packet
	p.network(kind, b)
	return p
}

func (p *Packet) network(kind uint16, b []byte) {
	p.Ether = kind
	switch kind {
	case EtherARP:
		p.arp(b)
	case EtherIP4:
		p.ip4(b)
	case EtherIP6:
		p.ip6(b)
	}
}

// arp reads what RFC 826 says of Ethernet and IPv4.
func (p *Packet) arp(b []byte) {
	if len(b) < 28 || binary.BigEndian.Uint64(b)>>16 != 0x000108000604 {
		return
	}
	p.ARP = binary.BigEndian.Uint16(b[6:])
	p.Hardware = net.HardwareAddr(b[8:14]).String()
	p.From, p.To = netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	p.Whole = true
}

func (p *Packet) ip4(b []byte) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return
	}
	head := int(b[0]&15) * 4
	if head < 20 || head > len(b) {
		return
	}
	p.From, p.To = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	p.Proto, p.Options = b[9], head > 20
	fragment := binary.BigEndian.Uint16(b[6:])
	p.Fragment = fragment&0x3fff != 0
	if total := int(binary.BigEndian.Uint16(b[2:])); total >= head && total < len(b) {
		b = b[:total] // the rest pads the frame
	}
	if fragment&0x1fff == 0 {
		p.transport(b[head:])
	}
}

// Extension headers of IPv6: RFC 8200, 4; RFC 6275; RFC 4302.
const (
	hopByHop, routing, fragmentHeader, destination, mobility, authentication = 0, 43, 44, 60, 135, 51
	maxExtensions                                                            = 8
)

func (p *Packet) ip6(b []byte) {
	if len(b) < 40 || b[0]>>4 != 6 {
		return
	}
	p.From, p.To = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	p.Proto = b[6]
	if length := int(binary.BigEndian.Uint16(b[4:])); length > 0 && 40+length < len(b) {
		b = b[:40+length]
	}
	b = b[40:]
	for range maxExtensions {
		size := 0
		switch p.Proto {
		case hopByHop, routing, destination, mobility:
			if len(b) < 8 {
				return
			}
			size = 8 + int(b[1])*8
		case authentication:
			if len(b) < 8 {
				return
			}
			size = 8 + int(b[1])*4
		case fragmentHeader:
			if len(b) < 8 {
				return
			}
			p.Fragment, size = true, 8
			if binary.BigEndian.Uint16(b[2:])&^7 != 0 {
				p.Options, p.Proto = true, b[0]
				return // no first part: no ports
			}
		default:
			p.transport(b)
			return
		}
		if size > len(b) {
			return
		}
		p.Options, p.Proto, b = true, b[0], b[size:]
	}
}

func (p *Packet) transport(b []byte) {
	switch p.Proto {
	case TCP:
		if len(b) < 20 {
			return
		}
		p.Seq, p.Flags = binary.BigEndian.Uint32(b[4:]), b[13]&0x3f
		if head := int(b[12]>>4) * 4; head >= 20 && head <= len(b) {
			p.Payload, p.Whole = b[head:], true
		}
	case UDP:
		if len(b) < 8 {
			return
		}
		p.Payload, p.Whole = b[8:], true
	case ICMP, ICMPv6:
		p.icmp(b)
		return
	default:
		p.Payload = b
		return
	}
	p.SourcePort, p.DestPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
}

func (p *Packet) icmp(b []byte) {
	if len(b) < 8 || p.Proto == ICMP != p.From.Is4() {
		return
	}
	p.Type, p.Code, p.Payload, p.Whole = b[0], b[1], b[8:], true
	switch {
	case p.IsError():
		about := Packet{}
		about.network(map[bool]uint16{true: EtherIP4, false: EtherIP6}[p.Proto == ICMP], b[8:])
		if about.From.IsValid() && !about.nested() {
			p.About = &about
		}
	case p.Proto == ICMPv6 && (p.Type == Solicit6 || p.Type == Advert6):
		if len(b) >= 24 {
			p.Subject = netip.AddrFrom16([16]byte(b[8:24]))
		}
	}
}

// nested reports whether an error is about an error, which RFC 1122, 3.2.2 and RFC
// 4443, 2.4 forbid.
func (p *Packet) nested() bool { return p.About != nil }

// IsError reports whether a packet is an ICMP error.
func (p Packet) IsError() bool {
	switch p.Proto {
	case ICMP:
		return p.Type == Unreachable || p.Type == TimeExceeded || p.Type == ParamProblem
	case ICMPv6:
		return p.Type >= Unreachable6 && p.Type <= ParamProblem6
	}
	return false
}

// IsEcho reports whether a packet is a ping, or an answer to one.
func (p Packet) IsEcho() bool {
	return p.Proto == ICMP && (p.Type == Echo || p.Type == EchoReply) || p.Proto == ICMPv6 && (p.Type == Echo6 || p.Type == EchoReply6)
}

// IsEchoReply reports whether a packet answers a ping.
func (p Packet) IsEchoReply() bool {
	return p.Proto == ICMP && p.Type == EchoReply || p.Proto == ICMPv6 && p.Type == EchoReply6
}

// IsDiscovery reports whether a packet is of neighbour discovery: RFC 4861.
func (p Packet) IsDiscovery() bool {
	return p.Proto == ICMPv6 && p.Type >= 133 && p.Type <= 137
}

// String describes the packet as tcpdump(8) would, in one line.
func (p Packet) String() string {
	var b strings.Builder
	if p.Source != nil {
		fmt.Fprintf(&b, "%s > %s, ", p.Source, p.Dest)
	}
	if p.VLAN {
		b.WriteString("VLAN tag, ")
	}
	switch {
	case p.Ether == EtherARP && p.Whole:
		b.WriteString(p.arpWords())
	case p.From.IsValid():
		b.WriteString(p.ipWords())
	case p.Dest == nil && p.Ether == 0:
		b.WriteString("a frame cut short")
	default:
		fmt.Fprintf(&b, "ethertype 0x%04x", p.Ether)
	}
	return b.String()
}

func (p Packet) arpWords() string {
	switch p.ARP {
	case 1:
		return fmt.Sprintf("ARP who has %s, tell %s", p.To, p.From)
	case 2:
		return fmt.Sprintf("ARP %s is at %s, to %s", p.From, p.Hardware, p.To)
	}
	return fmt.Sprintf("ARP operation %d, %s > %s", p.ARP, p.From, p.To)
}

func (p Packet) ipWords() string {
	ip := "IP"
	if p.From.Is6() {
		ip = "IP6"
	}
	words := fmt.Sprintf("%s %s > %s: ", ip, p.end(p.From, p.SourcePort), p.end(p.To, p.DestPort))
	switch {
	case p.Proto == TCP && p.Whole:
		words += "TCP " + flagWords(p.Flags)
	case p.Proto == UDP && p.Whole:
		words += "UDP"
	case (p.Proto == ICMP || p.Proto == ICMPv6) && p.Whole:
		words += p.icmpWords()
	default:
		words += fmt.Sprintf("protocol %d", p.Proto)
	}
	if len(p.Payload) > 0 {
		words += fmt.Sprintf(", %d bytes", len(p.Payload))
	}
	if p.Fragment {
		words += ", fragment"
	}
	if p.Options {
		words += ", options"
	}
	return words
}

func (p Packet) end(a netip.Addr, port uint16) string {
	if p.Whole && (p.Proto == TCP || p.Proto == UDP) {
		return netip.AddrPortFrom(a, port).String()
	}
	return a.String()
}

func flagWords(f byte) string {
	words := ""
	for i, letter := range "FSRPA" {
		if f&(1<<i) != 0 {
			words += string(letter)
		}
	}
	if words == "" {
		return "[none]"
	}
	return "[" + words + "]"
}

var icmpNames = map[[2]byte]string{
	{ICMP, EchoReply}: "echo reply", {ICMP, Unreachable}: "unreachable", {ICMP, 5}: "redirect", {ICMP, Echo}: "echo request",
	{ICMP, TimeExceeded}: "time exceeded", {ICMP, ParamProblem}: "parameter problem",
	{ICMPv6, Unreachable6}: "unreachable", {ICMPv6, TooBig6}: "packet too big", {ICMPv6, TimeExceeded6}: "time exceeded",
	{ICMPv6, ParamProblem6}: "parameter problem", {ICMPv6, Echo6}: "echo request", {ICMPv6, EchoReply6}: "echo reply",
	{ICMPv6, 133}: "router solicitation", {ICMPv6, 134}: "router advertisement", {ICMPv6, Solicit6}: "neighbour solicitation",
	{ICMPv6, Advert6}: "neighbour advertisement", {ICMPv6, 137}: "redirect", {ICMPv6, 143}: "multicast listener report",
}

func (p Packet) icmpWords() string {
	name, known := icmpNames[[2]byte{p.Proto, p.Type}]
	if !known {
		name = fmt.Sprintf("type %d", p.Type)
	}
	words := "ICMP " + name
	if p.About != nil {
		words += " about " + p.About.ipWords()
	}
	if p.Subject.IsValid() {
		words += " of " + p.Subject.String()
	}
	return words
}
