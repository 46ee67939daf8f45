package session

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"meros/internal/ui"
)

// silentTicks is after how many ticks an SFTP server is given up that owes an answer
// and neither takes nor sends a byte, on a link that lives: it may have opened a pipe
// that nobody writes to, or mean no good.
const silentTicks = 24

// exchange watches what goes to an SFTP server and comes from it.
type exchange struct {
	link            *pulse
	asked, answered packets
	moved           atomic.Int64 // bytes, both ways

	mu    sync.Mutex
	reads map[uint32]bool // what was asked for of files and has not come, by request
}

func newExchange(link *pulse) *exchange {
	e := &exchange{link: link, reads: map[uint32]bool{}}
	e.asked.passed, e.answered.passed = e.noteRead, e.checkRead
	return e
}

// noteRead takes note of a request for a part of a file.
func (e *exchange) noteRead(p packet) {
	if p.byte() != fxpRead {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reads[p.uint32()] = true
}

// checkRead gives the link up when a part of a file is answered with neither a byte nor
// an error, which a file's end is too (draft-ietf-secsh-filexfer-02, 6.4): a server that
// goes on so would be asked for ever.
func (e *exchange) checkRead(p packet) {
	kind, id, word := p.byte(), p.uint32(), p.uint32() // word is how many bytes it holds, or the error
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.reads[id] {
		return
	}
	delete(e.reads, id)
	if word == 0 && (kind == fxpData || kind == fxpStatus) {
		e.link.giveUp("the guest's SFTP server hands out nothing of a file, and not that it ends")
	}
}

// packets counts those of a stream of packets of SFTP, which each begin with their
// length (draft-ietf-secsh-filexfer-02, 3). It is for one goroutine but for begun
// and ended.
type packets struct {
	begun, ended atomic.Int64
	head         []byte       // of the length, or of what follows, what has passed
	left         uint32       // bytes of the packet to come
	passed       func(packet) // told how each packet began; may be nil
}

// headSize is how much of a packet is kept: its kind, its request, and a word.
const headSize = 9

func (p *packets) pass(b []byte) {
	for len(b) > 0 {
		if p.left == 0 {
			n := min(4-len(p.head), len(b))
			p.head, b = append(p.head, b[:n]...), b[n:]
			if len(p.head) < 4 {
				return
			}
			p.left, p.head = binary.BigEndian.Uint32(p.head), p.head[:0]
			p.begun.Add(1)
		} else {
			n := min(p.left, uint32(min(len(b), 1<<30)))
			p.head = append(p.head, b[:min(int(n), headSize-len(p.head))]...)
			p.left, b = p.left-n, b[n:]
		}
		if p.left == 0 {
			p.end()
		}
	}
}

func (p *packets) end() {
	if p.passed != nil {
		p.passed(packet{b: p.head})
	}
	p.head = p.head[:0]
	p.ended.Add(1)
}

// watch gives the link up when an answer is due and nothing moves for long. It returns
// then, or when ctx ends.
func (e *exchange) watch(ctx context.Context) {
	defer ui.Guard()
	ticker := time.NewTicker(e.link.every)
	defer ticker.Stop()
	for quiet, moved := 0, int64(-1); ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if now := e.moved.Load(); now != moved || e.answered.ended.Load() >= e.asked.begun.Load() {
			quiet, moved = 0, now
			continue
		}
		if quiet++; quiet >= silentTicks {
			e.link.giveUp(fmt.Sprintf("the guest's SFTP server has not answered for %s: a file of it may be a pipe, or its disk hangs", e.link.every*silentTicks))
			return
		}
	}
}

type askedTo struct {
	io.WriteCloser
	e *exchange
}

// Write implements io.Writer.
func (w askedTo) Write(b []byte) (int, error) {
	w.e.asked.pass(b) // before the answer can come
	n, err := w.WriteCloser.Write(b)
	w.e.moved.Add(int64(n))
	return n, err
}

type answeredBy struct {
	io.Reader
	e *exchange
}

// Read implements io.Reader.
func (r answeredBy) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.e.answered.pass(b[:n])
	r.e.moved.Add(int64(n))
	return n, err
}
