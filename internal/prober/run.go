package prober

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Name is the argument by which meros knows that it is the probe.
const Name = "meros-probe"

// IsProbe reports whether this process is to be one.
func IsProbe(argv []string) bool { return len(argv) == 2 && argv[1] == Name }

const (
	// patience is how long an answer is waited for: the kernel has asked for a
	// neighbour's MAC three times by then, and sent a SYN twice.
	patience = 3 * time.Second
	// sendings is how often what may be lost is sent.
	sendings = 2
	// atOnce bounds the sockets that are open.
	atOnce = 256
)

// Run is the main function of the probe; it returns the exit status. Every round it
// fires all shots, and it ends when its input does.
func Run(in io.Reader, out io.Writer) int {
	input := json.NewDecoder(in)
	var o Order
	if err := input.Decode(&o); err != nil {
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, io.MultiReader(input.Buffered(), in))
		if o.Every > 0 {
			cancel()
		}
	}()
	s := &shooter{out: json.NewEncoder(out)}
	s.openRaw(o.Frames)
	s.say(Said{Root: s.raw >= 0})
	for round := 1; ; round++ {
		s.fire(ctx, o)
		s.say(Said{Round: round})
		if o.Every == 0 {
			return 0
		}
		select {
		case <-ctx.Done():
			return 0
		case <-time.After(o.Every):
		}
	}
}

// shooter is a probe at work.
type shooter struct {
	mu  sync.Mutex
	out *json.Encoder
	raw int // a socket for frames as they stand; -1: none to be had
}

func (s *shooter) say(said Said) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.out.Encode(said) // whoever listens may have gone: then the input ends too
}

func (s *shooter) openRaw(frames []Raw) {
	s.raw = -1
	if len(frames) == 0 {
		return
	}
	if fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err == nil {
		s.raw = fd
	}
}

func (s *shooter) fire(ctx context.Context, o Order) {
	free := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for _, shot := range o.Shots {
		if ctx.Err() != nil {
			break
		}
		free <- struct{}{}
		all.Go(func() {
			defer func() { <-free }()
			outcome, err := shot.Fire(ctx, patience)
			why := ""
			if err != nil {
				why = err.Error()
			}
			s.say(Said{ID: shot.ID, Outcome: outcome, Why: shorten(why)})
		})
	}
	for _, f := range o.Frames {
		if s.raw < 0 {
			break
		}
		if err := s.put(f); err != nil {
			s.say(Said{ID: f.ID, Outcome: Unsent, Why: shorten(err.Error())})
		} else {
			s.say(Said{ID: f.ID, Outcome: Silent})
		}
	}
	all.Wait()
}

func (s *shooter) put(f Raw) error {
	links, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.HardwareAddr.String() == f.MAC {
			return unix.Sendto(s.raw, f.Frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Index, Halen: 6})
		}
	}
	return fmt.Errorf("no link has the address %s", f.MAC)
}

// Fire sends a shot and waits at most so long for what comes back. The error says why
// it was not sent.
func (s Shot) Fire(ctx context.Context, patience time.Duration) (Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if s.Proto == "tcp" {
		return s.connect(ctx, patience)
	}
	c, err := s.open(ctx)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return Barred, err
	case err != nil:
		return Unsent, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	message := s.message()
	buf := make([]byte, 1500)
	for range sendings {
		if _, err := c.Write(message); refused(err) {
			return Refused, nil
		} else if err != nil {
			return Unsent, err
		}
		_ = c.SetReadDeadline(time.Now().Add(patience / sendings))
		_, err := c.Read(buf)
		switch {
		case err == nil:
			return Answered, nil
		case refused(err):
			return Refused, nil
		case ctx.Err() != nil:
			return Silent, nil
		}
	}
	return Silent, nil
}

// refused reports whether somebody said no, or that there is no way.
func refused(err error) bool {
	for _, number := range []error{unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ECONNRESET} {
		if errors.Is(err, number) {
			return true
		}
	}
	return false
}

func (s Shot) connect(ctx context.Context, patience time.Duration) (Outcome, error) {
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{Port: int(s.Source)}, Control: again}
	c, err := d.DialContext(ctx, "tcp", s.address())
	switch {
	case err == nil:
		_ = c.(*net.TCPConn).SetLinger(0) // gone at once, so that the port can be used again
		return Answered, c.Close()
	case refused(err):
		return Refused, nil
	case errors.Is(err, unix.ETIMEDOUT), ctx.Err() != nil, isTimeout(err):
		return Silent, nil
	}
	return Unsent, err
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}

// again lets a port be used that an earlier shot used.
func again(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
}

func (s Shot) address() string { return net.JoinHostPort(s.To.String(), strconv.Itoa(int(s.Port))) }

// datagrams is a connected socket of them.
type datagrams interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
}

// open makes the socket of a datagram.
func (s Shot) open(ctx context.Context) (datagrams, error) {
	if s.Proto == "udp" {
		d := net.Dialer{LocalAddr: &net.UDPAddr{Port: int(s.Source)}, Control: toAll}
		return d.DialContext(ctx, "udp", s.address())
	}
	return ping(s.To)
}

// toAll lets a socket send to broadcast addresses.
func toAll(network, address string, c syscall.RawConn) error {
	_ = again(network, address, c)
	return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1) })
}

// ping opens a socket that sends pings, which the kernel gives to users of
// net.ipv4.ping_group_range (icmp(7)), and to root in any case.
func ping(to netip.Addr) (datagrams, error) {
	domain, proto := unix.AF_INET6, unix.IPPROTO_ICMPV6
	var address unix.Sockaddr = &unix.SockaddrInet6{Addr: to.As16(), ZoneId: zone(to)}
	if to.Is4() {
		domain, proto, address = unix.AF_INET, unix.IPPROTO_ICMP, &unix.SockaddrInet4{Addr: to.As4()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		fd, err = unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	}
	if err != nil {
		return nil, fmt.Errorf("open a socket for pings: %w", err)
	}
	if err := unix.Connect(fd, address); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "ping"), nil
}

// zone is the link that a link-local multicast leaves by: the first that is up.
func zone(to netip.Addr) uint32 {
	if !to.IsLinkLocalMulticast() && !to.IsLinkLocalUnicast() {
		return 0
	}
	links, _ := net.Interfaces()
	for _, l := range links {
		if l.Flags&net.FlagUp != 0 && l.Flags&net.FlagLoopback == 0 {
			return uint32(l.Index)
		}
	}
	return 0
}

// message is what a datagram carries; of ICMP, the kernel makes id and checksum
// unless the socket is a raw one, which needs the checksum too.
func (s Shot) message() []byte {
	if s.Proto == "udp" {
		return []byte(s.Token)
	}
	kind := byte(8)
	if s.To.Is6() {
		kind = 128
	}
	b := append([]byte{kind, 0, 0, 0, 0, 0, 0, 1}, s.Token...)
	binary.BigEndian.PutUint16(b[4:], uint16(s.ID))
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return b
}

// checksum is the Internet checksum: RFC 1071.
func checksum(b []byte) uint16 {
	s := uint32(0)
	for i, c := range b {
		s += uint32(c) << (8 * (1 - i%2))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}
