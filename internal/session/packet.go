package session

import (
	"encoding/binary"
	"errors"
	"io"
	"time"
)

var errShort = errors.New("the guest's SFTP server sends a broken packet")

// The parts of an entry's attributes: draft-ietf-secsh-filexfer-02, 5.
const (
	attrSize     = 1 << 0
	attrOwner    = 1 << 1
	attrMode     = 1 << 2
	attrTimes    = 1 << 3
	attrExtended = 1 << 31
)

// packet is the body of a packet of SFTP that is taken apart from its front.
// Once it turns out too short, short is set and what comes is zero.
type packet struct {
	b     []byte
	short bool
}

func (p *packet) take(n uint64) []byte {
	if p.short || n > uint64(len(p.b)) {
		p.short = true
		return nil
	}
	part := p.b[:n]
	p.b = p.b[n:]
	return part
}

func (p *packet) byte() byte {
	if part := p.take(1); part != nil {
		return part[0]
	}
	return 0
}

func (p *packet) uint32() uint32 {
	if part := p.take(4); part != nil {
		return binary.BigEndian.Uint32(part)
	}
	return 0
}

func (p *packet) uint64() uint64 {
	if part := p.take(8); part != nil {
		return binary.BigEndian.Uint64(part)
	}
	return 0
}

func (p *packet) string() string { return string(p.take(uint64(p.uint32()))) }

// listed takes one entry of SSH_FXP_NAME.
func (p *packet) listed() listed {
	name := p.string()
	p.take(uint64(p.uint32())) // the line that ls would print
	e := p.attrs()
	e.name = name
	return e
}

// attrs takes attributes, as SSH_FXP_ATTRS has them.
func (p *packet) attrs() listed {
	var e listed
	flags := p.uint32()
	if flags&attrSize != 0 {
		e.size = p.uint64()
	}
	if flags&attrOwner != 0 {
		p.take(8)
	}
	if flags&attrMode != 0 {
		e.mode = p.uint32()
	}
	if flags&attrTimes != 0 {
		p.take(4)
		e.mtime = time.Unix(int64(p.uint32()), 0)
	}
	if flags&attrExtended != 0 {
		for left := p.uint32(); left > 0 && !p.short; left-- {
			_, _ = p.string(), p.string()
		}
	}
	return e
}

// status takes an SSH_FXP_STATUS, which is an error where an answer to a call
// of that kind was wanted. Only a folder's list has an end.
func (p *packet) status(call byte) error {
	code, words := p.uint32(), p.string()
	if err := statusErrors[code]; err != nil && (err != io.EOF || call == fxpReaddir) {
		return err
	}
	if words == "" {
		words = "refused by the guest"
	}
	return &statusError{oneLine(words)}
}
