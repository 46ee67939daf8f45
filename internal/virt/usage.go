package virt

import (
	"context"
	"fmt"
	"time"

	"github.com/digitalocean/go-libvirt"
)

// Usage is what a domain has of the host, and what it has used.
type Usage struct {
	MemoryKiB uint64        // that the guest has now
	CPUs      int           // virtual ones
	CPUTime   time.Duration // of the host's processors, since the start
}

// Usage implements Daemon.
func (c *Conn) Usage(ctx context.Context, d Domain) (Usage, error) {
	var u Usage
	err := c.call(ctx, func(lib *libvirt.Libvirt) error {
		_, _, memory, cpus, spent, err := lib.DomainGetInfo(d.handle)
		u = Usage{MemoryKiB: memory, CPUs: int(cpus), CPUTime: time.Duration(spent)}
		return err
	})
	if err != nil {
		return u, fmt.Errorf("ask what %s uses: %w", d.Name, err)
	}
	return u, nil
}

// whyPaused words the reason that libvirt gives for a guest that does not run
// (virDomainPausedReason, virDomainCrashedReason).
func whyPaused(state, reason int32) string {
	switch libvirt.DomainState(state) {
	case libvirt.DomainPaused:
		switch libvirt.DomainPausedReason(reason) {
		case libvirt.DomainPausedIoerror:
			return "its disk could not be written: is the host's disk full?"
		case libvirt.DomainPausedWatchdog:
			return "its watchdog fired"
		case libvirt.DomainPausedUser:
			return "somebody paused it"
		case libvirt.DomainPausedCrashed:
			return "it crashed"
		}
	case libvirt.DomainCrashed:
		return "it crashed"
	}
	return ""
}
