package virt

import (
	"context"
	"fmt"

	"github.com/beevik/etree"
	"github.com/digitalocean/go-libvirt"
)

// WithPorts returns the document with the host's end of each interface named, so
// that filter rules can be there before the guest is.
func (d Document) WithPorts(device func(iface int) string) (Document, error) {
	doc := etree.NewDocument()
	if err := doc.ReadFromString(d.XML); err != nil {
		return d, err
	}
	for i, iface := range doc.FindElements("/domain/devices/interface") {
		child(iface, "target").CreateAttr("dev", device(i))
	}
	var err error
	d.XML, err = doc.WriteToString()
	return d, err
}

// CreatePaused starts a transient domain whose processors do not run yet.
func (c *Conn) CreatePaused(ctx context.Context, xml string) error {
	return c.call(ctx, func(lib *libvirt.Libvirt) error {
		_, err := lib.DomainCreateXML(xml, libvirt.DomainStartPaused)
		return err
	})
}

// Resume lets a paused domain run.
func (c *Conn) Resume(ctx context.Context, name string) error {
	err := c.call(ctx, func(lib *libvirt.Libvirt) error {
		d, err := lib.DomainLookupByName(name)
		if err != nil {
			return err
		}
		return lib.DomainResume(d)
	})
	if err != nil {
		return fmt.Errorf("resume %s: %w", name, err)
	}
	return nil
}
