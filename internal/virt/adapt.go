package virt

import (
	"slices"
	"strings"
)

// adapt changes what this host cannot do: accelerator, processor, machine type,
// emulator. Documents of other drivers than QEMU stay as they are.
func (d *domain) adapt() {
	recipe := d.root.SelectAttrValue("type", "")
	switch recipe {
	case "", "kvm", "qemu":
	default:
		return
	}
	d.out.QEMU = true
	tcg := d.setType(recipe)
	if tcg {
		d.adaptCPU()
		d.adaptTimer()
		d.adaptStringMoves()
	}
	d.adaptMachine()
	d.adaptEmulator()
	d.adaptGraphics()
	d.fitResources()
}

// setType settles KVM or TCG and reports whether it is TCG. A recipe that asks
// for emulation gets it, unless the person asks for KVM.
func (d *domain) setType(recipe string) (tcg bool) {
	want := d.Accel.domainType()
	switch {
	case want == "kvm" && !d.native():
		want = "qemu"
		if recipe == "kvm" {
			d.warn("%s: KVM cannot run %s guests on %s: emulated", d.FullID, d.arch(), d.Host.Arch)
		}
	case want == "kvm" && recipe == "qemu" && !d.Accel.Forced:
		want = "qemu"
	case want == "qemu" && recipe == "kvm":
		d.warn("%s: the recipe asks for KVM: emulated with TCG instead", d.FullID)
	}
	d.root.CreateAttr("type", want)
	return want == "qemu"
}

// native reports whether the host's processor can run the guest's code.
func (d *domain) native() bool {
	arch := d.arch()
	return arch == d.Host.Arch || d.Host.Arch == "x86_64" && arch == "i686" || d.Host.Arch == "aarch64" && arch == "armv7l"
}

// adaptCPU replaces a processor that only KVM has by the fullest one that TCG
// emulates.
func (d *domain) adaptCPU() {
	cpu := d.root.SelectElement("cpu")
	if cpu == nil {
		return
	}
	mode := cpu.SelectAttrValue("mode", "")
	model := ""
	if m := cpu.SelectElement("model"); m != nil {
		model = strings.TrimSpace(m.Text())
	}
	asked := mode
	switch {
	case mode == "host-passthrough" || mode == "host-model":
	case model != "" && d.Host.CPUModels != nil && !d.Host.CPUModels[model]:
		asked = model
	default:
		return
	}
	// libvirt before 7.1 has no mode "maximum": its own choice is the next best.
	instead := "maximum"
	if d.Host.CPUModes != nil && !d.Host.CPUModes["maximum"] {
		instead = "libvirt's default"
		d.root.RemoveChild(cpu)
	}
	for _, a := range []string{"mode", "match", "check", "migratable"} {
		cpu.RemoveAttr(a)
	}
	for _, tag := range []string{"model", "vendor", "feature", "cache", "maxphysaddr"} {
		for _, e := range cpu.SelectElements(tag) {
			cpu.RemoveChild(e)
		}
	}
	cpu.CreateAttr("mode", "maximum")
	d.warn("%s: TCG has no processor %s: %s instead", d.FullID, asked, instead)
}

// adaptTimer has Linux not check its timer, as under KVM, where it leaves that out by
// itself (arch/x86/kernel/kvm.c, paravirt_ops_setup): on a busy host the ticks of
// an emulated one come late, and the guest panics with "IO-APIC + timer doesn't
// work!".
func (d *domain) adaptTimer() {
	cmdline := d.root.FindElement("./os/cmdline")
	if arch := d.arch(); cmdline == nil || arch != "x86_64" && arch != "i686" {
		return
	}
	if words := strings.Fields(cmdline.Text()); len(words) > 0 && !slices.Contains(words, "no_timer_check") {
		cmdline.SetText("no_timer_check " + strings.TrimSpace(cmdline.Text())) // in front: what stands behind a -- is init's
	}
}

// adaptStringMoves hides from an emulated guest that its processor moves strings of
// bytes fast (ERMS): the kernel and libc would copy all memory by "rep movsb", which
// TCG does byte by byte.
func (d *domain) adaptStringMoves() {
	cpu := d.root.SelectElement("cpu")
	if arch := d.arch(); cpu == nil || arch != "x86_64" && arch != "i686" {
		return
	}
	if cpu.SelectAttrValue("mode", "") != "maximum" && cpu.SelectElement("model") == nil {
		return
	}
	for _, f := range cpu.SelectElements("feature") {
		if f.SelectAttrValue("name", "") == "erms" {
			return
		}
	}
	f := cpu.CreateElement("feature")
	f.CreateAttr("policy", "disable")
	f.CreateAttr("name", "erms")
}

func (d *domain) adaptMachine() {
	kind := d.root.FindElement("./os/type")
	if kind == nil {
		return
	}
	machine := kind.SelectAttrValue("machine", "")
	if nearest := d.Host.nearestMachine(d.arch(), machine); nearest != machine && machine != "" {
		kind.CreateAttr("machine", nearest)
		d.warn("%s: this QEMU has no machine type %s: %s instead", d.FullID, machine, nearest)
	}
}

func (d *domain) adaptEmulator() {
	e := d.devices.SelectElement("emulator")
	if e == nil || d.Exists == nil {
		return
	}
	path := strings.TrimSpace(e.Text())
	if path != "" && d.Exists(path) {
		return
	}
	d.devices.RemoveChild(e)
	if path != "" {
		d.warn("%s: no emulator at %s: libvirt's own instead", d.FullID, path)
	}
}
