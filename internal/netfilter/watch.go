package netfilter

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"meros/internal/capture"
	"meros/internal/family"
	"meros/internal/prober"
)

const (
	// mostLeaks bounds what is kept; the rest is counted.
	mostLeaks = 200
	// generation is how many packets are remembered before the older ones are
	// forgotten; there are two generations.
	generation = 1 << 15
	// shown is how much of a leaking frame is kept, in bytes.
	shown = 128
)

// Watch sees what passes the host's links, and finds what should not.
type Watch struct {
	oracle *Oracle
	socket *capture.Socket
	done   chan struct{}
	ended  chan error
	seed   maphash.Seed

	mu      sync.Mutex
	phase   string
	packets int
	leaks   []*Leak
	more    int // leaks beyond those kept
	shots   map[int]*Planned
	flows   map[flow]*Planned
	young   map[trait]*origin
	old     map[trait]*origin
	bridges map[string]bool
}

// trait is what tells a packet, also behind address translation.
type trait struct {
	proto byte
	to    netip.Addr
	port  uint16
	seq   uint32
	body  uint64
}

// origin is where a packet came in.
type origin struct {
	senders []string
	shot    *Planned
}

// flow tells the packets of a shot from all others.
type flow struct {
	proto        byte
	to           netip.Addr
	port, source uint16
}

// NewWatch begins to watch, with nothing of what is to come known.
func NewWatch(o *Oracle) (*Watch, error) {
	socket, err := capture.Open()
	if err != nil {
		return nil, err
	}
	w := &Watch{
		oracle: o, socket: socket, done: make(chan struct{}), ended: make(chan error, 1), seed: maphash.MakeSeed(),
		shots: map[int]*Planned{}, flows: map[flow]*Planned{}, young: map[trait]*origin{}, bridges: map[string]bool{},
	}
	go func() { w.ended <- socket.Run(w.done, w.see) }()
	return w, nil
}

// Close ends it. The error says that not all could be seen.
func (w *Watch) Close() error {
	close(w.done)
	err := <-w.ended
	lost := w.socket.Lost()
	_ = w.socket.Close()
	if err == nil && lost > 0 {
		err = fmt.Errorf("%d frames passed faster than they could be looked at: what they were is not known", lost)
	}
	return err
}

// Begin names what happens from now on.
func (w *Watch) Begin(phase string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.phase = phase
}

// Plan tells what will be sent; what became of it before is forgotten.
func (w *Watch) Plan(shots []*Planned) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shots, w.flows = map[int]*Planned{}, map[flow]*Planned{}
	for _, s := range shots {
		s.sent, s.arrived, s.answered, s.back, s.said = false, false, false, false, prober.Said{}
		w.shots[s.ID] = s
		switch s.Proto {
		case family.ProtoTCP:
			w.flows[flow{capture.TCP, s.To, s.Port, s.Source}] = s
		case family.ProtoUDP:
			w.flows[flow{capture.UDP, s.To, s.Port, s.Source}] = s
		}
	}
}

// Said takes what a guest says of a shot.
func (w *Watch) Said(s prober.Said) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.shots[s.ID]; p != nil && s.Outcome != "" {
		p.said = s
	}
}

// see is called for every frame.
func (w *Watch) see(f capture.Frame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f.Link == "lo" || w.bridge(f.Link) {
		return
	}
	port, ours := w.oracle.ports[f.Link]
	key := w.trait(&f.Packet)
	from := w.recall(key)
	shot := w.shotOf(&f.Packet, f.Raw)
	if shot == nil && from != nil {
		shot = from.shot
	}
	if !f.Out {
		if ours {
			w.packets++
			w.comesIn(f, port, key, shot)
		}
		return
	}
	if ours {
		w.packets++
	}
	w.goesOut(f, ours, shot)
	var senders []string
	if from != nil {
		senders = from.senders
	}
	if why := w.oracle.Judge(f, senders...); why != "" {
		w.leak(f, senders, why)
	}
}

// bridge reports whether a link is one, by what it was when it was first seen.
func (w *Watch) bridge(link string) bool {
	is, known := w.bridges[link]
	if !known {
		is = capture.IsBridge(link)
		w.bridges[link] = is
	}
	return is
}

// comesIn notes who sent a packet.
func (w *Watch) comesIn(f capture.Frame, port Port, key trait, shot *Planned) {
	if shot != nil && slices.Contains(shot.Devs, f.Link) {
		shot.sent = true
	}
	if answered := w.answerOf(f); answered != nil && !f.IsError() && slices.Contains(answered.Expect, f.Link) {
		answered.answered = true
	}
	if key == (trait{}) {
		return
	}
	o := w.recall(key)
	if o == nil {
		if len(w.young) >= generation {
			w.old, w.young = w.young, map[trait]*origin{}
		}
		o = &origin{}
		w.young[key] = o
	}
	if !slices.Contains(o.senders, port.Target) {
		o.senders = append(o.senders, port.Target)
	}
	if shot != nil {
		o.shot = shot
	}
}

// goesOut notes where a shot, or an answer to one, came out.
func (w *Watch) goesOut(f capture.Frame, ours bool, shot *Planned) {
	if shot != nil && (slices.Contains(shot.Expect, f.Link) || shot.Beyond && !ours) {
		shot.arrived = true
	}
	if answered := w.answerOf(f); answered != nil && slices.Contains(answered.Devs, f.Link) {
		answered.back = true
		answered.arrived = answered.arrived || answered.Local
	}
}

// token begins what shots carry; six digits follow.
var token = []byte("meros-probe-")

// numbered returns the shot whose token a frame carries.
func (w *Watch) numbered(frame []byte) *Planned {
	at := bytes.Index(frame, token)
	if at < 0 || len(frame) < at+len(token)+6 {
		return nil
	}
	id, err := strconv.Atoi(string(frame[at+len(token) : at+len(token)+6]))
	if err != nil {
		return nil
	}
	return w.shots[id]
}

// shotOf returns the shot that a packet is.
func (w *Watch) shotOf(p *capture.Packet, frame []byte) *Planned {
	if s := w.flows[flow{p.Proto, p.To, p.DestPort, p.SourcePort}]; s != nil {
		return s
	}
	if p.IsEchoReply() || p.IsError() {
		return nil
	}
	return w.numbered(frame)
}

// answerOf returns the shot that a packet answers, or complains of.
func (w *Watch) answerOf(f capture.Frame) *Planned {
	switch {
	case f.IsError() && f.About != nil:
		return w.shotOf(f.About, nil)
	case f.IsEchoReply():
		return w.numbered(f.Raw)
	}
	return w.flows[flow{f.Proto, f.From, f.SourcePort, f.DestPort}]
}

// trait returns what tells a packet; the zero one if nothing does.
func (w *Watch) trait(p *capture.Packet) trait {
	key := trait{proto: p.Proto, to: p.To, port: p.DestPort, seq: p.Seq}
	switch {
	case !p.From.IsValid(), p.Ether == capture.EtherARP:
		return trait{}
	case p.Proto == capture.TCP && p.Whole:
		return key
	case len(p.Payload) == 0:
		return trait{}
	}
	key.body = maphash.Bytes(w.seed, p.Payload[:min(len(p.Payload), 64)])
	return key
}

func (w *Watch) recall(key trait) *origin {
	if o := w.young[key]; o != nil {
		return o
	}
	return w.old[key]
}

// leak notes a frame that should not be where it is.
func (w *Watch) leak(f capture.Frame, senders []string, why string) {
	l := &Leak{
		Link: f.Link, Where: w.where(f.Link), Packet: f.Packet.String(), Why: why,
		Frame: fmt.Sprintf("%x", f.Raw[:min(len(f.Raw), shown)]),
		kind:  kind{w.phase, f.Link, why, f.Ether, f.Proto, f.Type, f.From, f.To, f.DestPort},
	}
	if sender, ok := w.oracle.macs[f.Source.String()]; ok {
		l.From = sender.Target
	} else if len(senders) > 0 {
		l.From = senders[0]
	} else if p, ok := w.oracle.addrs[f.From]; ok {
		l.From = p.Target
	}
	w.note(l)
}

// note keeps a leak, or counts it where one of its kind is kept.
func (w *Watch) note(l *Leak) {
	if at := slices.IndexFunc(w.leaks, func(o *Leak) bool { return o.kind == l.kind }); at >= 0 {
		w.leaks[at].Count++
		return
	}
	if len(w.leaks) >= mostLeaks {
		w.more++
		return
	}
	l.Phase, l.First, l.Count = w.phase, time.Now().UTC(), 1
	w.leaks = append(w.leaks, l)
}

func (w *Watch) where(link string) string {
	if p, ours := w.oracle.ports[link]; ours {
		return p.Target + "'s port on " + p.Bridge
	}
	return "the link " + link + " of the host"
}
