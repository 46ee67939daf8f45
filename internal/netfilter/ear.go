package netfilter

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"strconv"

	"meros/internal/family"
	"meros/internal/prober"
)

// Listen has the host itself hear what guests send it by UDP, which nothing on a link
// would show: a program that takes a packet need not answer. Where a program listens
// already, only answers tell. stop ends it.
func (w *Watch) Listen(planned []*Planned) (stop func()) {
	var open []net.PacketConn
	for _, s := range planned {
		if !s.Local || s.Proto != family.ProtoUDP {
			continue
		}
		c, err := net.ListenPacket("udp", netip.AddrPortFrom(s.To, s.Port).String())
		if err != nil {
			continue // taken: by a program, or by us for another guest
		}
		open = append(open, c)
		go w.hear(c)
	}
	return func() {
		for _, c := range open {
			_ = c.Close()
		}
	}
}

func (w *Watch) hear(c net.PacketConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		w.heard(buf[:n], from, c.LocalAddr())
	}
}

func (w *Watch) heard(message []byte, from, to net.Addr) {
	id, err := strconv.Atoi(string(bytes.TrimPrefix(message, token)))
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.shots[id]
	switch {
	case err != nil || s == nil || !s.Local:
	case s.Pass:
		s.sent, s.arrived = true, true
	default:
		w.note(&Leak{
			From: s.Sender, Where: "the host itself", Packet: "UDP " + from.String() + " > " + to.String(),
			Why: notAllowed(s.Sender, family.PeerHost, ""), kind: kind{phase: w.phase, to: s.To, port: s.Port},
		})
	}
}

// Fire has the host send its own shots, and returns when they are sent.
func (w *Watch) Fire(ctx context.Context, planned []*Planned) {
	done := make(chan struct{})
	n := 0
	for _, s := range planned {
		if s.Sender != family.PeerHost {
			continue
		}
		n++
		w.mu.Lock()
		s.sent = true
		w.mu.Unlock()
		go func() {
			outcome, err := s.Shot.Fire(ctx, hostTime)
			if err != nil && outcome == prober.Unsent {
				w.Said(prober.Said{ID: s.ID, Outcome: outcome, Why: err.Error()})
			}
			done <- struct{}{}
		}()
	}
	for range n {
		<-done
	}
}
