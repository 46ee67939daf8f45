package virt

import "github.com/beevik/etree"

// trim leaves away what libvirt adds to a domain by itself and no recipe asked
// for, and says outright what else it would have to guess: each device is code of
// the host that a hostile guest talks to.
func (d *domain) trim() {
	if !d.out.QEMU {
		return
	}
	if d.root.SelectElement("on_crash") == nil {
		// A guest that may crash QEMU again and again has as many tries.
		d.root.CreateElement("on_crash").SetText("destroy")
	}
	// Of other machines libvirt adds a USB keyboard to what has a display.
	if pc := d.arch() == "x86_64" || d.arch() == "i686"; pc && !d.usesUSB() {
		usb := d.devices.CreateElement("controller")
		usb.CreateAttr("type", "usb")
		usb.CreateAttr("model", "none")
	}
	if d.devices.SelectElement("memballoon") == nil {
		d.devices.CreateElement("memballoon").CreateAttr("model", "none")
	}
}

// usesUSB reports whether a device of the recipe is on USB, or would be by
// libvirt's choice.
func (d *domain) usesUSB() bool {
	for _, e := range d.devices.ChildElements() {
		if onUSB(e) {
			return true
		}
	}
	return false
}

func onUSB(e *etree.Element) bool {
	switch e.Tag {
	case "redirdev", "hub", "redirfilter", "smartcard":
		return true
	case "controller", "hostdev":
		return e.SelectAttrValue("type", "") == "usb" || e.SelectAttrValue("type", "") == "ccid"
	case "input":
		// A tablet has no other bus to be on by default (formatdomain: input).
		return e.SelectAttrValue("bus", "") == "usb" || e.SelectAttrValue("bus", "") == "" && e.SelectAttrValue("type", "") == "tablet"
	case "sound":
		return e.SelectAttrValue("model", "") == "usb"
	}
	target, address := e.SelectElement("target"), e.SelectElement("address")
	return target != nil && (target.SelectAttrValue("bus", "") == "usb" || target.SelectAttrValue("type", "") == "usb-serial") ||
		address != nil && address.SelectAttrValue("type", "") == "usb"
}
