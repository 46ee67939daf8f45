package netfilter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"meros/internal/proc"
)

// childName is the argument by which meros knows that it is to work in a network
// namespace that nobody else is in.
const childName = "meros-netns"

// IsChild reports whether this process was started to try rules.
func IsChild(argv []string) bool { return len(argv) == 2 && argv[1] == childName }

// order is what the child is to do.
type order struct {
	Family string
	Try    string // a rule set to be loaded and listed
	Bench  *bench
}

// report is what came of it.
type report struct {
	Error    string
	NotFound bool   // a program is missing
	Listing  string // of the rule set, and of nothing else
	Sightings
}

// Child is the main function of that process; it returns the exit status.
func Child() int {
	var o order
	var r report
	err := json.NewDecoder(os.Stdin).Decode(&o)
	if err == nil && o.Bench != nil {
		r.Sightings, err = runBench(context.Background(), *o.Bench)
	} else if err == nil {
		r.Listing, err = try(context.Background(), o)
	}
	if err != nil {
		r.Error, r.NotFound = err.Error(), errors.Is(err, proc.ErrNotFound)
	}
	if json.NewEncoder(os.Stdout).Encode(r) != nil {
		return 1
	}
	return 0
}

// inNamespace has an order carried out in a network namespace of its own, which
// an ordinary user may make too where user namespaces are allowed.
func inNamespace(ctx context.Context, r proc.Runner, o order) (report, error) {
	var out report
	in, err := json.Marshal(o)
	if err != nil {
		return out, err
	}
	var stdout bytes.Buffer
	c := proc.Cmd{
		Argv: []string{"/proc/self/exe", childName}, Stdin: bytes.NewReader(in), Stdout: &stdout,
		Cloneflags: unix.CLONE_NEWNET, KillNow: true,
	}
	if os.Geteuid() != 0 {
		c.Cloneflags |= unix.CLONE_NEWUSER
		c.RootInside = true
	}
	if err := r.Run(ctx, c); err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EACCES) {
			err = noNamespace(err)
		}
		return out, fmt.Errorf("try rules in a network namespace: %w", err)
	}
	if err := json.Unmarshal(stdout.Bytes(), &out); err != nil {
		return out, fmt.Errorf("try rules in a network namespace: %w", err)
	}
	if out.NotFound {
		return out, fmt.Errorf("%s: %w", strings.TrimSuffix(out.Error, ": "+proc.ErrNotFound.Error()), proc.ErrNotFound)
	}
	if out.Error != "" {
		return out, errors.New(out.Error)
	}
	return out, nil
}

// Sightings say where the packets of a bench were seen.
type Sightings struct {
	Seen    map[int][]string // by probe: the devices that it came out of
	Answers map[int]bool     // by probe: whether an answer got back
	Unasked map[int]bool     // by probe: whether what passes for an answer got back
	Forged  map[int]bool     // by probe: whether an answer in another's name got anywhere
	Heard   map[int]bool     // by probe: whether the next hop's complaint got back
	Sources map[int]string   // by probe: the IPv4 address that it came out with
	NoNF    bool             // br_netfilter is not to be had
}

// stage is a bench that has been laid.
type stage struct {
	bench
	socks map[string]int // by device of a stand-in
	Sightings
	captured map[int][]byte // by probe: the frame as it came out
}

func runBench(ctx context.Context, b bench) (Sightings, error) {
	s := &stage{bench: b, socks: map[string]int{}, captured: map[int][]byte{}}
	s.Seen, s.Answers, s.Unasked = map[int][]string{}, map[int]bool{}, map[int]bool{}
	s.Forged, s.Heard = map[int]bool{}, map[int]bool{}
	if err := batch(ctx, b.Links); err != nil {
		return s.Sightings, err
	}
	if err := s.outside(ctx); err != nil {
		return s.Sightings, err
	}
	for _, kv := range b.Sysctls {
		err := os.WriteFile("/proc/sys/"+kv[0], []byte(kv[1]), 0)
		switch {
		case errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(kv[0], bridgeNF):
			s.NoNF = true
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return s.Sightings, err
		}
	}
	for _, text := range b.Rules {
		if err := nft(ctx, proc.Host{}, text, nil); err != nil {
			return s.Sightings, err
		}
	}
	s.play(ctx)
	s.Sources = map[int]string{}
	for id, frame := range s.captured {
		if len(frame) >= 34 && frame[12] == 0x08 && frame[13] == 0 {
			s.Sources[id] = netip.AddrFrom4([4]byte(frame[26:30])).String()
		}
	}
	return s.Sightings, nil
}

func batch(ctx context.Context, lines string) error {
	program, err := proc.Find("ip")
	if err != nil {
		return err
	}
	return proc.Host{}.Run(ctx, proc.Cmd{Argv: []string{program, "-batch", "-"}, Stdin: strings.NewReader(lines), Stdout: io.Discard})
}

// outside moves the stand-ins into a namespace of their own, in which nobody has
// an address, so that nothing answers unless we do. Its thread never comes back.
func (s *stage) outside(ctx context.Context) error {
	ready, failed := make(chan string), make(chan error, 1)
	moved := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with us
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			failed <- fmt.Errorf("make a network namespace: %w", err)
			return
		}
		ready <- fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		if err := <-moved; err != nil {
			failed <- err
			return
		}
		if err := batch(ctx, s.Outer); err != nil {
			failed <- err
			return
		}
		failed <- s.open()
		select {}
	}()
	select {
	case err := <-failed:
		return err
	case namespace := <-ready:
		var b strings.Builder
		for _, peer := range s.Peers {
			fmt.Fprintf(&b, "link set %s netns %s\n", peer, namespace)
		}
		moved <- batch(ctx, b.String())
	}
	return <-failed
}

// open makes a socket on each stand-in's device.
func (s *stage) open() error {
	for _, peer := range s.Peers {
		index, err := deviceIndex(peer)
		if err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8)
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(all))
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index})
		}
		if err != nil {
			return fmt.Errorf("listen on %s: %w", peer, err)
		}
		s.socks[peer] = fd
	}
	return nil
}

// deviceIndex asks for an index in the namespace of the calling thread.
func deviceIndex(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return int(req.Uint32()), nil
}

const (
	// quiet is how long nothing may come for a round to be over: a frame takes
	// microseconds through a bridge.
	quiet = 150 * time.Millisecond
	// rounds is how often what should have come and did not is sent; twice is what should
	// not come, since a busy kernel drops frames.
	rounds, twice = 4, 2
	// burst is how many frames are sent before those that came are read: a few of the
	// 1000 that the kernel queues for a processor (net.core.netdev_max_backlog).
	burst = 64
)

// play sends all probes, then what only passes for answers to those that came
// through, then the answers.
func (s *stage) play(ctx context.Context) {
	for round := range rounds {
		sent := 0
		for _, p := range s.Probes {
			if p.Expect == "" && round < twice || p.Expect != "" && !slices.Contains(s.Seen[p.ID], p.Expect) {
				s.send(ctx, p)
				if sent++; sent%burst == 0 {
					s.watch(time.Millisecond)
				}
			}
		}
		s.watch(quiet)
	}
	for range twice {
		sent := 0
		for _, p := range s.Probes {
			if got := s.captured[p.ID]; len(got) > 0 && p.Answer != nil && (!s.Answers[p.ID] || p.Complaint != nil && !s.Heard[p.ID]) {
				s.answer(p, got)
				if sent++; sent%(burst/8) == 0 {
					s.watch(time.Millisecond)
				}
			}
		}
		s.watch(quiet)
	}
}

// answer sends what only passes for an answer to a frame that came through, then the
// answer.
func (s *stage) answer(p probe, got []byte) {
	s.forge(p, got)
	if p.Complaint != nil {
		s.put(p.Expect, complaint(got, p.Hop, p.Complaint))
	}
	if p.Unasked != nil {
		s.put(p.Expect, reply(got, p.Unasked, strayBy))
	}
	s.put(p.Expect, reply(got, p.Answer, 0))
}

// forge has others answer.
func (s *stage) forge(p probe, got []byte) {
	frame := reply(got, p.Forged, 0)
	for _, f := range p.Forgers {
		for _, own := range f.MACs {
			if len(frame) > 12 {
				s.put(f.Send, slices.Concat(frame[:6], mac(own), frame[12:]))
			}
		}
	}
}

func (s *stage) put(peer string, frame []byte) {
	if fd, ok := s.socks[peer]; ok {
		_, _ = unix.Write(fd, frame) // what is lost is sent again or missed
	}
}

// watch notes what comes until nothing does for a time.
func (s *stage) watch(quiet time.Duration) {
	var polls []unix.PollFd
	var names []string
	for name, fd := range s.socks {
		polls = append(polls, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		names = append(names, name)
	}
	buf := make([]byte, 65536)
	for end := time.Now().Add(quiet); time.Now().Before(end); {
		if _, err := unix.Poll(polls, int(min(20, quiet.Milliseconds()))); err != nil {
			continue
		}
		for i, p := range polls {
			for p.Revents&unix.POLLIN != 0 {
				n, from, err := unix.Recvfrom(int(p.Fd), buf, 0)
				if err != nil {
					break
				}
				if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING && s.note(names[i], buf[:n]) {
					end = time.Now().Add(quiet)
				}
			}
		}
	}
}

// note finds out which probe a frame is of.
func (s *stage) note(peer string, frame []byte) bool {
	known := false
	for _, p := range s.Probes {
		switch {
		case len(p.Complaint) > 0 && bytes.Contains(frame, p.Complaint):
			known = true
			s.Heard[p.ID] = s.Heard[p.ID] || peer == p.Send
		case p.Host != nil && p.matches(frame) && goesOn(frame):
			known = true
			s.Answers[p.ID] = s.Answers[p.ID] || peer == p.Expect
		case p.matches(frame):
			known = true
			if !slices.Contains(s.Seen[p.ID], peer) {
				s.Seen[p.ID] = append(s.Seen[p.ID], peer)
			}
			if peer == p.Expect {
				s.captured[p.ID] = bytes.Clone(frame)
			}
		case len(p.Answer) > 0 && bytes.Contains(frame, p.Answer):
			known = true
			s.Answers[p.ID] = s.Answers[p.ID] || peer == p.Send || p.Host != nil && peer == p.Expect
		case len(p.Forged) > 0 && bytes.Contains(frame, p.Forged):
			known, s.Forged[p.ID] = true, true
		case len(p.Unasked) > 0 && bytes.Contains(frame, p.Unasked):
			known = true
			// At the uplink it is the host that says that nobody listens.
			s.Unasked[p.ID] = s.Unasked[p.ID] || peer != peerPrefix+uplink
		}
	}
	return known
}

// goesOn reports whether the host's TCP has heard an answer: it says more than SYN, be
// it that nobody waits any more.
func goesOn(frame []byte) bool {
	at := 14 + 20 + 13
	if len(frame) > 12 && frame[12] == 0x86 {
		at += 20
	}
	return len(frame) > at && isTCP(frame) && frame[at]&(tcpACK|tcpRST) != 0
}
