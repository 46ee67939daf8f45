package virt

import (
	"fmt"
	"strings"

	"github.com/beevik/etree"
)

// Capabilities is what libvirt says guests can be made of on this host.
type Capabilities struct {
	Arch      string         // the host's own, such as x86_64
	Machines  map[string]Set // by guest architecture: machine types, aliases too
	CPUModes  Set            // <cpu mode=…> that work; nil if libvirt does not say
	Graphics  Set            // <graphics type=…> that work; nil if libvirt does not say
	Videos    Set            // <video><model type=…> that work; nil if libvirt does not say
	CPUModels Set            // <cpu><model> that work; nil if libvirt does not say
}

// Set is a set of words.
type Set map[string]bool

// parseCapabilities reads libvirt's capabilities and domain capabilities
// (libvirt.org, formatcaps.html and formatdomaincaps.html). guest may be "".
func parseCapabilities(host, guest string) (Capabilities, error) {
	doc := etree.NewDocument()
	if err := doc.ReadFromString(host); err != nil {
		return Capabilities{}, fmt.Errorf("libvirt's capabilities: %w", err)
	}
	caps := Capabilities{Machines: map[string]Set{}}
	if arch := doc.FindElement("/capabilities/host/cpu/arch"); arch != nil {
		caps.Arch = arch.Text()
	}
	for _, arch := range doc.FindElements("/capabilities/guest/arch") {
		name := arch.SelectAttrValue("name", "")
		if caps.Machines[name] == nil {
			caps.Machines[name] = Set{}
		}
		for _, m := range arch.FindElements(".//machine") {
			caps.Machines[name][m.Text()] = true
			caps.Machines[name][m.SelectAttrValue("canonical", m.Text())] = true
		}
	}
	if guest == "" {
		return caps, nil
	}
	return caps, caps.addCPUs(guest)
}

func (c *Capabilities) addCPUs(guest string) error {
	doc := etree.NewDocument()
	if err := doc.ReadFromString(guest); err != nil {
		return fmt.Errorf("libvirt's domain capabilities: %w", err)
	}
	c.CPUModes, c.CPUModels = Set{}, Set{}
	c.Graphics = enumOf(doc, "/domainCapabilities/devices/graphics/enum[@name='type']")
	c.Videos = enumOf(doc, "/domainCapabilities/devices/video/enum[@name='modelType']")
	for _, mode := range doc.FindElements("/domainCapabilities/cpu/mode[@supported='yes']") {
		c.CPUModes[mode.SelectAttrValue("name", "")] = true
	}
	for _, model := range doc.FindElements("/domainCapabilities/cpu/mode[@name='custom']/model[@usable='yes']") {
		c.CPUModels[model.Text()] = true
	}
	return nil
}

// enumOf returns the values that libvirt lists, nil where it has no such list.
func enumOf(doc *etree.Document, path string) Set {
	list := doc.FindElement(path)
	if list == nil {
		return nil
	}
	s := Set{}
	for _, value := range list.SelectElements("value") {
		s[value.Text()] = true
	}
	return s
}

// machineAliases are the unversioned names of QEMU's machine types, by the start
// of the versioned ones (qemu-system-x86_64 -machine help, and so on).
var machineAliases = []struct{ prefix, alias string }{
	{"pc-q35-", "q35"},
	{"pc-", "pc"},
	{"virt-", "virt"},
	{"pseries-", "pseries"},
	{"s390-ccw-virtio-", "s390-ccw-virtio"},
}

// nearestMachine returns a machine type that this host's QEMU has: machine itself
// where it is known or nothing is known, else the alias of its kind, else
// machine.
func (c Capabilities) nearestMachine(arch, machine string) string {
	known := c.Machines[arch]
	if len(known) == 0 || known[machine] {
		return machine
	}
	for _, a := range machineAliases {
		if strings.HasPrefix(machine, a.prefix) && known[a.alias] {
			return a.alias
		}
	}
	return machine
}
