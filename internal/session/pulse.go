package session

import (
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"meros/internal/ui"
)

// A link is asked for a sign of life after quietTicks in which nothing came, and
// is dead after deadTicks. Ticks are counted, not time, so that a process that
// was stopped for a while does not find its links dead.
const (
	tick       = 5 * time.Second
	quietTicks = 3
	deadTicks  = 9
)

// pulse is a network connection that knows whether the other side lives.
type pulse struct {
	net.Conn
	every time.Duration // a tick

	heard atomic.Int64           // bytes that came
	ended atomic.Bool            // the other side or the network ended it
	dead  atomic.Pointer[string] // why watch gave it up
}

// Read implements net.Conn.
func (p *pulse) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	p.heard.Add(int64(n))
	if err != nil {
		p.ended.Store(true)
	}
	return n, err
}

// watch closes the link when nothing has come for long, questions included. It
// returns when the client ends.
func (p *pulse) watch(client *ssh.Client) {
	defer ui.Guard()
	ended := make(chan struct{})
	go func() {
		defer ui.Guard()
		_ = client.Wait()
		close(ended)
	}()
	ticker := time.NewTicker(p.every)
	defer ticker.Stop()
	for quiet, heard := 0, int64(-1); ; {
		select {
		case <-ended:
			return
		case <-ticker.C:
		}
		now := p.heard.Load()
		if now != heard {
			quiet, heard = 0, now
			continue
		}
		quiet++
		if quiet == quietTicks {
			go func() {
				defer ui.Guard()
				_, _, _ = client.SendRequest("keepalive@openssh.com", true, nil)
			}()
		}
		if quiet >= deadTicks {
			p.giveUp(fmt.Sprintf("nothing came from the guest for %s", p.every*deadTicks))
		}
	}
}

// giveUp closes the network connection itself: what is above it may be stuck in
// a write to it.
func (p *pulse) giveUp(why string) {
	p.dead.Store(&why)
	_ = p.Conn.Close()
}
