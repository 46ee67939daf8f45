package session

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"meros/internal/hint"
	"meros/internal/ui"
)

// Tunnel is a forward that a person asked for: connections to Listen, on one
// side, go to To on the other.
type Tunnel struct {
	Kind   TunnelKind
	Listen string // address and port; of this host unless the kind says else
	To     string // host and port; "" for SOCKS
}

// TunnelKind is by which of ssh(1)'s flags a forward was asked for.
type TunnelKind byte

// The kinds.
const (
	TunnelLocal  TunnelKind = 'L' // the host listens, the guest connects
	TunnelRemote TunnelKind = 'R' // the guest listens, the host connects
	TunnelSOCKS  TunnelKind = 'D' // the host listens, the guest connects to what SOCKS asks for
)

// ParseTunnel reads a forward as ssh(1) writes it: [ADDRESS:]PORT:HOST:PORT, for
// SOCKS [ADDRESS:]PORT. IPv6 addresses stand in brackets. Without an address it
// listens on 127.0.0.1.
func ParseTunnel(kind TunnelKind, spec string) (Tunnel, error) {
	parts, err := splitColons(spec)
	rest := 2
	if kind == TunnelSOCKS {
		rest = 0
	}
	if err == nil && len(parts) == 1+rest {
		parts = append([]string{"127.0.0.1"}, parts...)
	}
	form := fmt.Errorf("%q is no forward: want [ADDRESS:]PORT:HOST:PORT", spec)
	if kind == TunnelSOCKS {
		form = fmt.Errorf("%q is no forward: want [ADDRESS:]PORT", spec)
	}
	if err != nil || len(parts) != 2+rest {
		return Tunnel{}, form
	}
	if _, err := netip.ParseAddr(parts[0]); err != nil && parts[0] != "localhost" {
		return Tunnel{}, form
	}
	t := Tunnel{Kind: kind, Listen: net.JoinHostPort(parts[0], parts[1])}
	ports := []string{parts[1]}
	if rest > 0 {
		t.To, ports = net.JoinHostPort(parts[2], parts[3]), append(ports, parts[3])
	}
	for _, port := range ports {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return Tunnel{}, form
		}
	}
	return t, nil
}

// splitColons parts a string at its colons outside of brackets.
func splitColons(s string) ([]string, error) {
	var parts []string
	for {
		part, rest, more := strings.Cut(s, ":")
		if strings.HasPrefix(s, "[") {
			end := strings.Index(s, "]")
			if end < 0 {
				return nil, errors.New("no ]")
			}
			part, rest = s[1:end], s[end+1:]
			more = strings.HasPrefix(rest, ":")
			if !more && rest != "" {
				return nil, errors.New("text after ]")
			}
			rest = strings.TrimPrefix(rest, ":")
		}
		if part == "" {
			return nil, errors.New("empty")
		}
		parts = append(parts, part)
		if !more {
			return parts, nil
		}
		s = rest
	}
}

// Open opens forwards until stop is called. If one cannot be, none is.
func (c *Conn) Open(ctx context.Context, s *ui.Streams, tunnels []Tunnel) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var open sync.WaitGroup
	stop = func() { cancel(); open.Wait() }
	for _, t := range tunnels {
		l, err := c.listenFor(ctx, t)
		if err != nil {
			stop()
			return nil, err
		}
		fault := func(err error) { s.Warn("forward %s: %v", t.Listen, fromGuest(err)) }
		open.Go(func() {
			defer ui.Guard()
			if t.Kind == TunnelSOCKS {
				c.serveSOCKS(ctx, l, fault)
				return
			}
			relay(ctx, l, anybody, func() (net.Conn, error) { return c.dialFor(ctx, t) }, fault)
		})
	}
	return stop, nil
}

func (c *Conn) listenFor(ctx context.Context, t Tunnel) (net.Listener, error) {
	if t.Kind == TunnelRemote {
		l, err := c.client.Listen("tcp", t.Listen)
		if err != nil {
			return nil, hint.Add(fmt.Errorf("listen on %s in %s: %w", t.Listen, c.fullID, c.fault(err)), "the port may be taken there, or its sshd not allow forwards")
		}
		return l, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", t.Listen)
	if err != nil {
		return nil, hint.Add(fmt.Errorf("forward %s: %w", t.Listen, err), "pick another port")
	}
	return l, nil
}

func (c *Conn) dialFor(ctx context.Context, t Tunnel) (net.Conn, error) {
	if t.Kind == TunnelRemote {
		return (&net.Dialer{Timeout: connectLimit}).DialContext(ctx, "tcp", t.To)
	}
	return c.dialGuest("tcp", t.To)
}

// socksLimit bounds how long a program may take to say where it wants to.
const socksLimit = 30 * time.Second

// serveSOCKS is a SOCKS5 proxy (RFC 1928), without authentication, whose
// connections the guest makes.
func (c *Conn) serveSOCKS(ctx context.Context, l net.Listener, fault func(error)) {
	var joined sync.WaitGroup
	defer joined.Wait()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		near, err := l.Accept()
		if err != nil {
			return
		}
		joined.Go(func() {
			defer ui.Guard()
			defer near.Close()
			defer context.AfterFunc(ctx, func() { _ = near.Close() })()
			_ = near.SetDeadline(time.Now().Add(socksLimit))
			to, err := socksRequest(near)
			if err != nil {
				fault(err)
				return
			}
			far, err := c.dialGuest("tcp", to)
			if err != nil {
				_, _ = near.Write(socksReply(5)) // connection refused
				return
			}
			_ = near.SetDeadline(time.Time{})
			if _, err := near.Write(socksReply(0)); err == nil {
				join(ctx, near, far)
			}
			_ = far.Close()
		})
	}
}

func socksReply(code byte) []byte { return []byte{5, code, 0, 1, 0, 0, 0, 0, 0, 0} }

var errSOCKS = errors.New("a program speaks no SOCKS5, or asks for more than a connection")

// socksRequest reads up to where a program wants to connect to.
func socksRequest(rw io.ReadWriter) (string, error) {
	var head [4]byte
	if _, err := io.ReadFull(rw, head[:2]); err != nil || head[0] != 5 {
		return "", errSOCKS
	}
	if _, err := io.CopyN(io.Discard, rw, int64(head[1])); err != nil {
		return "", errSOCKS
	}
	if _, err := rw.Write([]byte{5, 0}); err != nil {
		return "", err
	}
	if _, err := io.ReadFull(rw, head[:]); err != nil || head[0] != 5 || head[1] != 1 {
		return "", errSOCKS
	}
	size := map[byte]int{1: 4, 4: 16}[head[3]]
	if head[3] == 3 {
		var n [1]byte
		if _, err := io.ReadFull(rw, n[:]); err != nil {
			return "", errSOCKS
		}
		size = int(n[0])
	}
	to := make([]byte, size+2)
	if _, err := io.ReadFull(rw, to); err != nil || size == 0 {
		return "", errSOCKS
	}
	host := string(to[:size])
	if head[3] != 3 {
		addr, _ := netip.AddrFromSlice(to[:size])
		host = addr.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(to[size:])))), nil
}
