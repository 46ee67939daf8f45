package netfilter

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// probe is one packet with what is to become of it.
type probe struct {
	ID     int
	From   string // target or peer
	To     string
	Words  string // what it is: "tcp 22", "arp request with another's address"
	Send   string // device of the stand-in that sends it; "" is the host itself
	Frame  []byte
	Host   *hostSend
	Expect string // the device it must come out of; "" is none
	Token  []byte // what tells it
	Offset int    // where in the frame; -1 is anywhere
	Own    bool   // its answer from the host is what is waited for, so Send is where

	Answer    []byte // token of an answer that must get back; nil: none is sent
	Unasked   []byte // token of one to another port, which must not
	Forged    []byte // token of one by somebody else, which must not either
	Forgers   []forger
	Hop       string // address of a next hop that complains of the packet
	Complaint []byte // token of that, which must get back
}

// forger is a port that answers in the name of another, or by another's MAC.
type forger struct {
	Send string // device of its stand-in
	MACs []string
}

// hostSend is what the host itself sends.
type hostSend struct {
	Proto    string
	From, To netip.Addr
	Source   uint16
	Port     uint16
	Token    []byte
}

func (p probe) matches(frame []byte) bool {
	if p.Offset < 0 {
		return bytes.Contains(frame, p.Token)
	}
	return len(frame) >= p.Offset+len(p.Token) && bytes.Equal(frame[p.Offset:p.Offset+len(p.Token)], p.Token)
}

// hostTime bounds what the host's own sockets wait for an answer; nobody gives
// one before the packets are looked at.
const hostTime = 400 * time.Millisecond

func (s *stage) send(ctx context.Context, p probe) {
	if p.Host == nil {
		s.put(p.Send, p.Frame)
		return
	}
	h := *p.Host
	d := net.Dialer{Timeout: hostTime}
	to := net.JoinHostPort(h.To.String(), strconv.Itoa(int(h.Port)))
	switch h.Proto {
	case "tcp":
		d.LocalAddr = &net.TCPAddr{IP: h.From.AsSlice(), Port: int(h.Source)}
	case "udp":
		d.LocalAddr = &net.UDPAddr{IP: h.From.AsSlice(), Port: int(h.Source)}
	case "icmp":
		d.LocalAddr, to = &net.IPAddr{IP: h.From.AsSlice()}, h.To.String()
	}
	go func() {
		network := h.Proto
		message := h.Token
		if h.Proto == "icmp" {
			network, message = "ip4:icmp", echo(8, h.Source, h.Token)
			if h.To.Is6() {
				network, message = "ip6:ipv6-icmp", echo(128, h.Source, h.Token)
			}
			binary.BigEndian.PutUint16(message[2:], sum(message, 0)) // the kernel makes that of ICMPv6
		}
		c, err := d.DialContext(ctx, network, to)
		if err != nil {
			return // the packet was dropped, or nobody answers: what is seen decides
		}
		defer c.Close()
		if h.Proto != "tcp" {
			_, _ = c.Write(message)
		}
	}()
}

// reply makes an answer of a frame that came through, and puts shift on the port
// or id that it goes to.
func reply(got, token []byte, shift uint16) []byte {
	if len(got) < 14+20+8 {
		return nil
	}
	f := frame{dst: net.HardwareAddr(got[6:12]), src: net.HardwareAddr(got[:6])}
	ip := got[14:]
	var l4 []byte
	if got[12] == 0x08 {
		f.from, f.to = netip.AddrFrom4([4]byte(ip[16:20])), netip.AddrFrom4([4]byte(ip[12:16]))
		f.proto, l4 = ip[9], ip[20:]
	} else {
		if len(ip) < 48 {
			return nil
		}
		f.from, f.to = netip.AddrFrom16([16]byte(ip[24:40])), netip.AddrFrom16([16]byte(ip[8:24]))
		f.proto, l4 = ip[6], ip[40:]
	}
	from, to := binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	switch f.proto {
	case protoTCP:
		if len(l4) < 20 {
			return nil
		}
		f.body = tcp(to, from+shift, tcpSYN|tcpACK, token)
		binary.BigEndian.PutUint32(f.body[8:], binary.BigEndian.Uint32(l4[4:])+1+uint32(max(0, len(l4)-int(l4[12]>>4)*4))) // what the kernel sends has options
	case protoUDP:
		f.body = udp(to, from+shift, token)
	case protoICMP:
		f.body = echo(0, binary.BigEndian.Uint16(l4[4:])+shift, token)
	case protoICMP6:
		f.body = echo(129, binary.BigEndian.Uint16(l4[4:])+shift, token)
	default:
		return nil
	}
	return f.bytes()
}

// complaint is the ICMP error by which a next hop says that a frame that came through
// goes no further.
func complaint(got []byte, hop string, token []byte) []byte {
	from, err := netip.ParseAddr(hop)
	if err != nil || len(got) < 54 {
		return nil
	}
	f := frame{dst: net.HardwareAddr(got[6:12]), src: net.HardwareAddr(got[:6]), from: from, proto: protoICMP, to: netip.AddrFrom4([4]byte(got[26:30]))}
	f.body = []byte{3, 1, 0, 0, 0, 0, 0, 0} // host unreachable: RFC 792
	if from.Is6() {
		f.proto, f.to, f.body = protoICMP6, netip.AddrFrom16([16]byte(got[22:38])), []byte{1, 0, 0, 0, 0, 0, 0, 0} // no route: RFC 4443
	}
	f.body = append(append(f.body, got[14:]...), token...)
	return f.bytes()
}
