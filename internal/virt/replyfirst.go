package virt

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

// replyFirst is a connection to libvirtd on which the reply to a call comes before
// what the stream brings that the call opened. libvirtd sends what a console has
// kept as soon as the stream stands, now and then before the reply, and go-libvirt
// takes what comes first for the reply, and the reply for the end of the stream.
type replyFirst struct {
	net.Conn
	packets *bufio.Reader
	ready   []byte
	replied map[uint32]bool   // by serial
	early   map[uint32][]byte // packets that are ahead of their reply, by serial
}

func newReplyFirst(conn net.Conn) *replyFirst {
	return &replyFirst{Conn: conn, packets: bufio.NewReader(conn), replied: map[uint32]bool{}, early: map[uint32][]byte{}}
}

// A packet's header is seven big-endian words: the packet's length in bytes,
// program, version, procedure, type, serial, status (libvirt's "RPC protocol &
// APIs", section "Protocol").
const (
	headerBytes = 7 * 4
	typeAt      = 4 * 4
	serialAt    = 5 * 4

	typeReply  = 1
	typeStream = 3

	// maxPacket is libvirt's own limit, VIR_NET_MESSAGE_MAX and the length word.
	maxPacket = 32<<20 + 4
)

// Read implements net.Conn.
func (c *replyFirst) Read(p []byte) (int, error) {
	for len(c.ready) == 0 {
		packet, err := c.next()
		if err != nil {
			return 0, err
		}
		serial := binary.BigEndian.Uint32(packet[serialAt:])
		switch kind := binary.BigEndian.Uint32(packet[typeAt:]); {
		case kind == typeReply:
			c.ready = append(packet, c.early[serial]...)
			c.replied[serial] = true
			delete(c.early, serial)
		case kind == typeStream && !c.replied[serial]:
			c.early[serial] = append(c.early[serial], packet...)
		default:
			c.ready = packet
		}
	}
	n := copy(p, c.ready)
	c.ready = c.ready[n:]
	return n, nil
}

// next reads one whole packet.
func (c *replyFirst) next() ([]byte, error) {
	length, err := c.packets.Peek(4)
	if err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(length)
	if size < headerBytes || size > maxPacket {
		return nil, fmt.Errorf("libvirt: a packet of %d bytes", size)
	}
	packet := make([]byte, size)
	_, err = io.ReadFull(c.packets, packet)
	return packet, err
}
