package family

import (
	"slices"
	"strings"
)

// qemuSpace is the name space of the arguments that libvirt hands to QEMU unread.
const qemuSpace = "http://libvirt.org/schemas/domain/qemu/1.0:"

// netArgs are the options of qemu(1) by which a guest gets a network card, or could.
var netArgs = []string{"nic", "net", "netdev", "readconfig"}

// past finds what gives a guest a way that leads past its ports, which are all that
// the rules know of.
func past(f *file, root *node) {
	all := slices.Clone(root.children)
	if devices := root.child("devices"); devices != nil {
		all = append(all, devices.children...)
	}
	for _, n := range all {
		kind, _ := n.attr("type")
		switch {
		case n.name == qemuSpace+"commandline":
			pastArgs(f, n)
		case n.name == "vsock":
			f.fault(n.line, "vsock", "passes by the policy: it leads to the host, and no filter rule sees it")
		case n.name == "hostdev" && (kind.value == "pci" || kind.value == "net"):
			f.fault(n.line, "hostdev", "type %s passes by the policy where it is a network card: a family with one has networks of its own only", show(kind.value))
		}
	}
}

// pastArgs finds network cards among the arguments for QEMU.
func pastArgs(f *file, n *node) {
	before := ""
	for _, arg := range n.children {
		value, _ := arg.attr("value")
		if arg.name != qemuSpace+"arg" {
			continue
		}
		option := strings.TrimPrefix(strings.TrimPrefix(value.value, "-"), "-")
		isDevice := before == "device" && (strings.Contains(value.value, "vfio-") || strings.Contains(value.value, "vsock"))
		if isDevice || option != value.value && slices.Contains(netArgs, option) {
			f.fault(value.line, "qemu:arg", "%s passes by the policy: what it gives the guest, no filter rule sees", show(value.value))
		}
		before = option
	}
}
