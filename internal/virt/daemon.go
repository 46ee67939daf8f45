package virt

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/digitalocean/go-libvirt"
)

// Daemon is what meros asks of libvirt. Conn is the real one. Every call ends
// with its context; errors of libvirt are its own words.
type Daemon interface {
	// Domains returns all domains of the host, running and merely defined.
	Domains(ctx context.Context) ([]Domain, error)
	// Networks returns all networks of the host, running and merely defined.
	Networks(ctx context.Context) ([]Network, error)
	// CreateNetwork starts a transient network.
	CreateNetwork(ctx context.Context, xml string) error
	// CreateDomain starts a transient domain.
	CreateDomain(ctx context.Context, xml string) error
	// ShutdownDomain asks a guest to power off; it returns before the guest does,
	// and a guest that boots or hangs ignores it.
	ShutdownDomain(ctx context.Context, d Domain) error
	// DestroyDomain cuts the power. A domain that is gone is no error.
	DestroyDomain(ctx context.Context, d Domain) error
	// DestroyNetwork takes a network down. A network that is gone is no error.
	DestroyNetwork(ctx context.Context, n Network) error
	// Console ties a domain's serial console to in and out: see Conn.
	Console(ctx context.Context, d Domain, in io.Reader, out io.Writer, force bool) error
	// Events calls each for every change in the life of any domain of the host, until
	// ctx ends or each fails.
	Events(ctx context.Context, each func(Event) error) error
	// Usage returns what a running domain uses of the host.
	Usage(ctx context.Context, d Domain) (Usage, error)
	// Capabilities returns what guests of an accelerator can be made of here.
	Capabilities(ctx context.Context, a Accel) (Capabilities, error)
	// Close ends the connection.
	Close() error
}

var _ Daemon = (*Conn)(nil)

// State is how a domain is doing, in libvirt's words.
type State string

// The states of a domain (virDomainState).
const (
	StateRunning  State = "running"
	StatePaused   State = "paused"
	StateStopping State = "shutting down"
	StateOff      State = "off"
	StateCrashed  State = "crashed"
	StateUnknown  State = "unknown"
)

// Active reports whether the domain holds its image and its networks.
func (s State) Active() bool { return s != StateOff && s != StateUnknown }

// Domain is a domain of the host, ours or another's.
type Domain struct {
	Name  string
	State State
	Why   string // why it is paused or crashed; "" else, or if libvirt does not say
	Owner Owner  // zero when meros did not make it
	Mark  Mark   // what else we wrote down
	XML   string // the document as libvirt holds it

	handle libvirt.Domain
}

// Network is a network of the host, ours or another's.
type Network struct {
	Name   string
	Active bool
	Owner  Owner  // zero when meros did not make it
	Mark   Mark   // what else we wrote down
	XML    string // the document as libvirt holds it

	handle libvirt.Network
}

func stateOf(n int32) State {
	switch libvirt.DomainState(n) {
	case libvirt.DomainRunning, libvirt.DomainBlocked:
		return StateRunning
	case libvirt.DomainPaused, libvirt.DomainPmsuspended:
		return StatePaused
	case libvirt.DomainShutdown:
		return StateStopping
	case libvirt.DomainShutoff:
		return StateOff
	case libvirt.DomainCrashed:
		return StateCrashed
	}
	return StateUnknown
}

// Domains implements Daemon.
func (c *Conn) Domains(ctx context.Context) ([]Domain, error) {
	var all []Domain
	err := c.again(ctx, func(lib *libvirt.Libvirt) error {
		all = nil
		handles, _, err := lib.ConnectListAllDomains(1, libvirt.ConnectListDomainsActive|libvirt.ConnectListDomainsInactive)
		for _, h := range handles {
			d, descErr := describeDomain(lib, h)
			if descErr == nil {
				all = append(all, d)
			} else if !isGone(descErr) {
				return descErr
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list domains: %w", err)
	}
	return all, nil
}

func describeDomain(lib *libvirt.Libvirt, h libvirt.Domain) (Domain, error) {
	state, reason, err := lib.DomainGetState(h, 0)
	if err != nil {
		return Domain{}, err
	}
	xml, err := lib.DomainGetXMLDesc(h, 0)
	if err != nil {
		return Domain{}, err
	}
	owner, mark := ownerIn(xml)
	return Domain{Name: h.Name, State: stateOf(state), Why: whyPaused(state, reason), Owner: owner, Mark: mark, XML: xml, handle: h}, nil
}

// Networks implements Daemon.
func (c *Conn) Networks(ctx context.Context) ([]Network, error) {
	var all []Network
	err := c.again(ctx, func(lib *libvirt.Libvirt) error {
		all = nil
		handles, _, err := lib.ConnectListAllNetworks(1, libvirt.ConnectListNetworksActive|libvirt.ConnectListNetworksInactive)
		for _, h := range handles {
			n, descErr := describeNetwork(lib, h)
			if descErr == nil {
				all = append(all, n)
			} else if !isGone(descErr) {
				return descErr
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	return all, nil
}

func describeNetwork(lib *libvirt.Libvirt, h libvirt.Network) (Network, error) {
	active, err := lib.NetworkIsActive(h)
	if err != nil {
		return Network{}, err
	}
	xml, err := lib.NetworkGetXMLDesc(h, 0)
	if err != nil {
		return Network{}, err
	}
	owner, mark := ownerIn(xml)
	return Network{Name: h.Name, Active: active != 0, Owner: owner, Mark: mark, XML: xml, handle: h}, nil
}

// CreateNetwork implements Daemon.
func (c *Conn) CreateNetwork(ctx context.Context, xml string) error {
	return c.call(ctx, func(lib *libvirt.Libvirt) error {
		_, err := lib.NetworkCreateXML(xml)
		return err
	})
}

// CreateDomain implements Daemon.
func (c *Conn) CreateDomain(ctx context.Context, xml string) error {
	return c.call(ctx, func(lib *libvirt.Libvirt) error {
		_, err := lib.DomainCreateXML(xml, 0)
		return err
	})
}

// ShutdownDomain implements Daemon.
func (c *Conn) ShutdownDomain(ctx context.Context, d Domain) error {
	return c.end(ctx, "shut down "+d.Name, func(lib *libvirt.Libvirt) error {
		return lib.DomainShutdownFlags(d.handle, libvirt.DomainShutdownDefault)
	})
}

// Reboot asks a guest to start anew; it returns before the guest does, and a guest
// that boots or hangs ignores it.
func (c *Conn) Reboot(ctx context.Context, d Domain) error {
	err := c.call(ctx, func(lib *libvirt.Libvirt) error { return lib.DomainReboot(d.handle, libvirt.DomainRebootDefault) })
	if err != nil {
		return fmt.Errorf("reboot %s: %w", d.Name, err)
	}
	return nil
}

// Reset starts a guest anew at once, as the button on its front would.
func (c *Conn) Reset(ctx context.Context, d Domain) error {
	err := c.call(ctx, func(lib *libvirt.Libvirt) error { return lib.DomainReset(d.handle, 0) })
	if err != nil {
		return fmt.Errorf("reset %s: %w", d.Name, err)
	}
	return nil
}

// DestroyDomain implements Daemon.
func (c *Conn) DestroyDomain(ctx context.Context, d Domain) error {
	return c.end(ctx, "cut the power of "+d.Name, func(lib *libvirt.Libvirt) error {
		return lib.DomainDestroy(d.handle)
	})
}

// DestroyNetwork implements Daemon.
func (c *Conn) DestroyNetwork(ctx context.Context, n Network) error {
	return c.end(ctx, "take down network "+n.Name, func(lib *libvirt.Libvirt) error {
		return lib.NetworkDestroy(n.handle)
	})
}

// end calls f, to which an object that is gone already is no fault.
func (c *Conn) end(ctx context.Context, act string, f func(*libvirt.Libvirt) error) error {
	err := c.again(ctx, f)
	if err == nil || isGone(err) {
		return nil
	}
	return fmt.Errorf("%s: %w", act, err)
}

// Suspend stops a domain's processors until it is resumed.
func (c *Conn) Suspend(ctx context.Context, d Domain) error {
	err := c.call(ctx, func(lib *libvirt.Libvirt) error { return lib.DomainSuspend(d.handle) })
	if err != nil {
		return fmt.Errorf("pause %s: %w", d.Name, err)
	}
	return nil
}

// Capabilities implements Daemon.
func (c *Conn) Capabilities(ctx context.Context, a Accel) (Capabilities, error) {
	var host, guest string
	err := c.call(ctx, func(lib *libvirt.Libvirt) (err error) {
		if host, err = lib.ConnectGetCapabilities(); err != nil {
			return err
		}
		kind := libvirt.OptString{a.domainType()}
		guest, err = lib.ConnectGetDomainCapabilities(nil, nil, nil, kind, 0)
		if unknowable(err) {
			return nil
		}
		return err
	})
	if err != nil {
		return Capabilities{}, fmt.Errorf("ask libvirt what this host can run: %w", err)
	}
	return parseCapabilities(host, guest)
}

// unknowable reports that a driver has no answer, as the test driver has none.
func unknowable(err error) bool {
	switch code(err) {
	case libvirt.ErrNoSupport, libvirt.ErrInvalidArg, libvirt.ErrConfigUnsupported:
		return true
	}
	return errors.Is(err, libvirt.ErrUnsupported)
}
