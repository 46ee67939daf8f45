package virt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/digitalocean/go-libvirt"

	"meros/internal/hint"
)

// What Console returns when the guest's end of the line went away.
var (
	ErrPoweredOff    = errors.New("the guest powered off")
	ErrConsoleClosed = errors.New("the console was closed: somebody else has taken it over")
)

// escapeKey leaves a console: ^], as in telnet(1) and virsh(1).
const escapeKey = 0x1d

// Console implements Daemon: it ties in and out to a domain's serial console until
// ^] is typed, which returns nil, the context ends, or the guest's end closes. The end of in is not
// the end of the session: what the guest prints is still read. With force a
// session that somebody else has open is ended first.
func (c *Conn) Console(ctx context.Context, d Domain, in io.Reader, out io.Writer, force bool) error {
	// A connection of its own: others' calls must not wait behind what a person
	// reads slowly.
	own := &Conn{uri: c.uri, sockets: c.sockets, patient: c.patient, streams: true}
	defer own.Close()
	flags := uint32(libvirt.DomainConsoleSafe)
	if force {
		flags |= uint32(libvirt.DomainConsoleForce)
	}
	keys := &keyboard{in: in, ended: make(chan struct{})}
	defer close(keys.ended)
	screen := &screen{out: out}
	err := settle(ctx, 2*time.Second, func() (bool, error) {
		err := own.call(ctx, func(lib *libvirt.Libvirt) error {
			// Handles are good on any connection: they are a name and a UUID.
			return lib.DomainOpenConsoleBidirectional(d.handle, nil, keys, screen, flags)
		})
		// Whoever just left may still be written down as there.
		return code(err) != libvirt.ErrOperationFailed, err
	})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case keys.left.Load():
		return nil
	case screen.err != nil:
		return fmt.Errorf("console of %s: %w", d.Name, screen.err)
	case err == nil || code(err) == libvirt.ErrRPC:
		return fmt.Errorf("%s: %w", d.Name, c.whyClosed(ctx, d))
	case code(err) == libvirt.ErrOperationFailed && !force:
		return hint.Add(fmt.Errorf("console of %s: %w", d.Name, err), "somebody else may have it open: --force takes it over")
	}
	return fmt.Errorf("console of %s: %w", d.Name, err)
}

// whyClosed tells a guest that is off from one whose console another has.
func (c *Conn) whyClosed(ctx context.Context, d Domain) error {
	return settle(ctx, 5*time.Second, func() (bool, error) {
		domains, err := c.Domains(ctx)
		if err != nil {
			return true, err
		}
		for _, now := range domains {
			if now.handle.UUID == d.handle.UUID && now.State.Active() {
				return false, ErrConsoleClosed
			}
		}
		return true, ErrPoweredOff
	})
}

// settle calls f until it says that its answer will not change, for the time that
// libvirt may take to note that a session or a guest ended, and returns the last answer.
func settle(ctx context.Context, limit time.Duration, f func() (final bool, err error)) error {
	for deadline := time.Now().Add(limit); ; {
		final, err := f()
		if final || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// keyboard is what is typed, up to the escape key.
type keyboard struct {
	in    io.Reader
	left  atomic.Bool
	ended chan struct{} // closed when the session is over
}

// maxKeys bounds one packet to the guest: what a person pastes comes in pieces.
const maxKeys = 4 << 10

// Read implements io.Reader.
func (k *keyboard) Read(p []byte) (int, error) {
	if k.left.Load() {
		return 0, io.EOF
	}
	n, err := k.in.Read(p[:min(len(p), maxKeys)])
	for i, b := range p[:n] {
		if b == escapeKey {
			k.left.Store(true)
			if i == 0 {
				return 0, io.EOF
			}
			return i, nil
		}
	}
	if err == nil || n > 0 {
		return n, nil
	}
	// Nothing more is typed. An end here would be the end of what is printed too.
	<-k.ended
	return 0, io.EOF
}

// screen notes why the guest's output could not be written.
type screen struct {
	out io.Writer
	err error
}

// Write implements io.Writer.
func (s *screen) Write(p []byte) (int, error) {
	n, err := s.out.Write(p)
	if err != nil {
		s.err = err
	}
	return n, err
}
