package capture

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Frame is one that passed a link.
type Frame struct {
	Packet
	Link string
	Out  bool   // the host sent it there
	Raw  []byte // as it stands, at most longest
}

const (
	// room is what the kernel keeps for us while we look, in bytes.
	room = 16 << 20
	// longest is how much of a frame is looked at: all headers, and enough of what
	// they carry to tell it.
	longest = 2048
	// wake is how often a reader that sees nothing looks whether it is to end.
	wake = 100 * time.Millisecond
)

// Socket sees what passes all links of the network namespace of the thread that
// opened it (packet(7)), also of those that come later.
type Socket struct {
	fd    int
	names map[int]string
	lost  uint64
}

// Open begins to see frames. It takes CAP_NET_RAW: the error then wraps
// fs.ErrPermission. Close it.
func Open() (*Socket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(swap(unix.ETH_P_ALL)))
	if err != nil {
		return nil, fmt.Errorf("see the frames of this host's links: %w", err)
	}
	s := &Socket{fd: fd, names: map[int]string{}}
	// Beyond what the host lets sockets have, as root may; else as much as it lets.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, room)
	}
	tv := unix.NsecToTimeval(wake.Nanoseconds())
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	if err == nil { // tells of tags, which the kernel takes off the frame
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("see the frames of this host's links: %w", err)
	}
	return s, nil
}

// swap turns a number from the order of the network to that of the host, and back.
func swap(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

// Close ends it. No Run may be under way.
func (s *Socket) Close() error { return unix.Close(s.fd) }

// Lost is how many frames there was no room for.
func (s *Socket) Lost() uint64 {
	if st, err := unix.GetsockoptTpacketStats(s.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
		s.lost += uint64(st.Drops) // reading sets it back: packet(7)
	}
	return s.lost
}

// Behind reports whether frames have passed that were not looked at yet.
func (s *Socket) Behind() bool {
	n, err := unix.IoctlGetInt(s.fd, unix.TIOCINQ) // bytes of the next one: packet(7), FIONREAD
	return err == nil && n > 0
}

// Run hands each frame to each, until done is closed. What each keeps of a frame it
// has to copy.
func (s *Socket) Run(done <-chan struct{}, each func(Frame)) error {
	buf, oob := make([]byte, longest), make([]byte, 256)
	for {
		select {
		case <-done:
			return nil
		default:
		}
		n, oobn, _, from, err := unix.Recvmsg(s.fd, buf, oob, 0)
		switch err {
		case nil:
		case unix.EAGAIN, unix.EINTR, unix.ENETDOWN, unix.ENOBUFS: // a link that went down is none of ours to mind
			continue
		default:
			return fmt.Errorf("see the frames of this host's links: %w", err)
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok {
			continue
		}
		f := Frame{Link: s.name(ll.Ifindex), Out: ll.Pkttype == unix.PACKET_OUTGOING, Raw: buf[:n]}
		switch ll.Hatype {
		case unix.ARPHRD_ETHER, unix.ARPHRD_LOOPBACK:
			f.Packet = Decode(buf[:n])
		default: // tunnels of VPNs begin with the IP header
			f.Packet = DecodeIP(swap(ll.Protocol), buf[:n])
		}
		f.VLAN = f.VLAN || tagged(oob[:oobn])
		each(f)
	}
}

// tagged reports whether the kernel took a VLAN tag off a frame: the first word of
// tpacket_auxdata (linux/if_packet.h) is the status.
func tagged(oob []byte) bool {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 4 {
			return binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_VLAN_VALID != 0
		}
	}
	return false
}

// name finds out what a link is called. A guest's port has another index at each of
// its starts, so that an index means one link only.
func (s *Socket) name(index int) string {
	if name, known := s.names[index]; known {
		return name
	}
	name := fmt.Sprintf("link %d", index) // it has gone already
	if l, err := net.InterfaceByIndex(index); err == nil {
		name = l.Name
	}
	s.names[index] = name
	return name
}

// IsBridge reports whether a link is a bridge: what it sends, it hands to its ports.
func IsBridge(link string) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, link)
	return err == nil && unix.ByteSliceToString(info.Driver[:]) == "bridge"
}

// HardwareAddr returns the MAC of a link.
func HardwareAddr(link string) (string, error) {
	l, err := net.InterfaceByName(link)
	if err != nil {
		return "", err
	}
	return l.HardwareAddr.String(), nil
}

// Addrs returns the addresses of this host by link, loopback left out.
func Addrs() (map[netip.Addr]string, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the host's links: %w", err)
	}
	all := map[netip.Addr]string{}
	for _, l := range links {
		addrs, err := l.Addrs()
		if err != nil || l.Flags&net.FlagLoopback != 0 {
			continue // it has just gone
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				all[p.Addr()] = l.Name
			}
		}
	}
	return all, nil
}
