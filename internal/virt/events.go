package virt

import (
	"context"

	"github.com/digitalocean/go-libvirt"
)

// Event is a change in a domain's life.
type Event struct {
	Domain string
	What   string // started, paused, resumed, shutting down, off, crashed, defined, undefined
	Why    string // a detail in libvirt's words; "" if there is none
}

// lifecycleWords are libvirt's events (virDomainEventType).
var lifecycleWords = map[libvirt.DomainEventType]string{
	libvirt.DomainEventDefined: "defined", libvirt.DomainEventUndefined: "undefined",
	libvirt.DomainEventStarted: "started", libvirt.DomainEventSuspended: "paused",
	libvirt.DomainEventResumed: "resumed", libvirt.DomainEventStopped: "off",
	libvirt.DomainEventShutdown: "shutting down", libvirt.DomainEventPmsuspended: "asleep",
	libvirt.DomainEventCrashed: "crashed",
}

// Events implements Daemon.
func (c *Conn) Events(ctx context.Context, each func(Event) error) error {
	own := &Conn{uri: c.uri, sockets: c.sockets, patient: c.patient}
	defer own.Close()
	return own.call(ctx, func(lib *libvirt.Libvirt) error {
		listening, stop := context.WithCancel(ctx)
		defer stop()
		events, err := lib.LifecycleEvents(listening)
		if err != nil {
			return err
		}
		for e := range events {
			what := lifecycleWords[libvirt.DomainEventType(e.Event)]
			if what == "" {
				what = "changed"
			}
			if err := each(Event{Domain: e.Dom.Name, What: what, Why: detail(e)}); err != nil {
				return err
			}
		}
		return libvirt.ErrInterrupted // the connection broke
	})
}

// detail words the reasons that a person acts on (virDomainEventSuspendedDetailType,
// virDomainEventStoppedDetailType).
func detail(e libvirt.DomainEventLifecycleMsg) string {
	switch libvirt.DomainEventType(e.Event) {
	case libvirt.DomainEventSuspended:
		if libvirt.DomainEventSuspendedDetailType(e.Detail) == libvirt.DomainEventSuspendedIoerror {
			return "its disk could not be written"
		}
	case libvirt.DomainEventStopped:
		return map[libvirt.DomainEventStoppedDetailType]string{
			libvirt.DomainEventStoppedShutdown: "it powered off", libvirt.DomainEventStoppedDestroyed: "its power was cut",
			libvirt.DomainEventStoppedCrashed: "it crashed", libvirt.DomainEventStoppedFailed: "qemu failed",
		}[libvirt.DomainEventStoppedDetailType(e.Detail)]
	}
	return ""
}
