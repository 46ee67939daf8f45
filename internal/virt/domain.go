package virt

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/beevik/etree"
)

// Guest is what a target's domain document is filled with and adapted to.
type Guest struct {
	FullID     string
	Owner      Owner
	Mark       Mark
	Image      string   // disk image
	CDROM      string   // put into a drive of its own; "" for none
	Kernel     string   // "" when the image boots itself
	Initrd     string   // "" when the kernel needs none
	Root       string   // what names the image's root on the kernel command line; "" when it is not known
	Networks   []string // names of the family's networks
	ConsoleLog string   // what the serial console prints is added to this file
	Accel      Accel
	Want       Resources // what the person wants it to have
	Has        Resources // what the host has; zero is not known
	ShareMiB   int       // of the host's memory, where others want some too; 0: all that a guest may have
	Host       Capabilities
	Exists     func(file string) bool // whether the host has a program
}

// Document is a document made ready for libvirt.
type Document struct {
	Name     string
	XML      string
	Warnings []string // one line for each thing that this host made us change
	Files    []string // host files that a domain opens: disks, kernel, initrd
	Networks []string // libvirt networks that a domain joins
	QEMU     bool     // whether QEMU runs it, as libvirt's qemu user
}

// DomainDocument fills the <domain> document of a recipe: name, metadata, disk,
// kernel, MAC addresses, console, random numbers. What this host cannot do is
// adapted, with a warning each.
func DomainDocument(xml []byte, g Guest) (Document, error) {
	doc, err := parseDocument(xml, "domain")
	if err != nil {
		return Document{}, err
	}
	d := &domain{Guest: g, root: doc.Root(), devices: child(doc.Root(), "devices")}
	// What meros fills in is written as a word first and becomes a value with the
	// recipe's own words, once: a value is never looked at again.
	d.setName()
	d.fillDisk()
	d.fillKernel()
	if err := d.values().substitute(d.root); err != nil {
		return Document{}, err
	}
	g.Owner.stamp(d.root, g.Mark)
	d.fillMACs()
	d.adapt()
	d.ensureConsole()
	d.ensureRandom()
	d.trim()
	d.collect()
	d.out.Name = g.FullID
	d.out.XML, err = text(doc)
	return d.out, err
}

// domain is a document being edited.
type domain struct {
	Guest
	root    *etree.Element
	devices *etree.Element
	out     Document
}

func (d *domain) warn(format string, args ...any) {
	d.out.Warnings = append(d.out.Warnings, fmt.Sprintf(format, args...))
}

func (d *domain) values() values {
	v := values{varTarget: d.FullID, varImage: d.Image, varCDROM: d.CDROM, varKernel: d.Kernel, varInitrd: d.Initrd, varNetwork: ""}
	if len(d.Networks) == 1 {
		v[varNetwork] = d.Networks[0]
	}
	return v
}

func (d *domain) setName() {
	name := d.root.SelectElement("name")
	if name == nil {
		name = etree.NewElement("name")
		d.root.InsertChildAt(0, name)
	}
	name.SetText(varTarget)
}

// ownDisk returns the disk of the target's own image: the first hard disk whose
// source is left to meros. nil if there is none.
func (d *domain) ownDisk() *etree.Element {
	for _, disk := range d.devices.SelectElements("disk") {
		kind := disk.SelectAttrValue("type", "file")
		device := disk.SelectAttrValue("device", "disk")
		if kind != "file" || device != "disk" {
			continue
		}
		source := disk.SelectElement("source")
		if source == nil || isVariable(source.SelectAttrValue("file", ""), varImage) {
			return disk
		}
	}
	return nil
}

// fillDisk gives the target's own disk its image. Without one, as for a guest that
// lives on a CD-ROM alone, there is no such disk.
func (d *domain) fillDisk() {
	d.addCDROM()
	disk := d.ownDisk()
	if disk != nil && d.Image == "" && d.CDROM != "" {
		d.devices.RemoveChild(disk)
		return
	}
	if disk == nil {
		return
	}
	disk.CreateAttr("type", "file")
	child(disk, "source").CreateAttr("file", varImage)
	driver := disk.SelectElement("driver")
	if driver == nil {
		driver = insertAfter(disk, "driver", "")
	}
	if driver.SelectAttr("name") == nil {
		driver.CreateAttr("name", "qemu")
	}
	switch format := driver.SelectAttrValue("type", ""); format {
	case "qcow2":
	default:
		d.warn("%s: its disk says format %s, but the image is qcow2", d.FullID, format)
		fallthrough
	case "":
		driver.CreateAttr("type", "qcow2")
	}
}

// addCDROM adds a drive behind the recipe's disks, from which is booted what no
// disk boots.
func (d *domain) addCDROM() {
	if d.CDROM == "" {
		return
	}
	drive := d.devices.CreateElement("disk")
	drive.CreateAttr("type", "file")
	drive.CreateAttr("device", "cdrom")
	driver := drive.CreateElement("driver")
	driver.CreateAttr("name", "qemu")
	driver.CreateAttr("type", "raw")
	drive.CreateElement("source").CreateAttr("file", varCDROM)
	at := drive.CreateElement("target")
	bus := d.cdromBus()
	at.CreateAttr("dev", d.freeDevice(map[string]string{"ide": "hd"}[bus]))
	at.CreateAttr("bus", bus)
	drive.CreateElement("readonly")
	os := child(d.root, "os")
	if d.root.FindElement("./devices//boot") != nil || len(os.SelectElements("boot")) > 0 {
		return // the recipe has its own order
	}
	for _, dev := range []string{"hd", "cdrom"} {
		os.CreateElement("boot").CreateAttr("dev", dev)
	}
}

// freeDevice is the first name with that prefix, sd if it is "", which no disk has.
func (d *domain) freeDevice(prefix string) string {
	if prefix == "" {
		prefix = "sd"
	}
	used := map[string]bool{}
	for _, target := range d.devices.FindElements("./disk/target") {
		used[target.SelectAttrValue("dev", "")] = true
	}
	letter := 'a'
	for used[prefix+string(letter)] {
		letter++
	}
	return prefix + string(letter)
}

// cdromBus is where a CD-ROM drive is known to every guest: the older machine
// types have IDE, all others SATA or, where there is no such thing, SCSI.
func (d *domain) cdromBus() string {
	machine := ""
	if kind := d.root.FindElement("./os/type"); kind != nil {
		machine = kind.SelectAttrValue("machine", "pc")
	}
	switch {
	case machine == "q35" || strings.HasPrefix(machine, "pc-q35"):
		return "sata"
	case strings.HasPrefix(machine, "pc"):
		return "ide"
	}
	return "scsi"
}

// fillKernel gives the target's own kernel to a document that leaves it open,
// and takes empty elements away where there is none.
func (d *domain) fillKernel() {
	os := child(d.root, "os")
	for tag, f := range map[string]struct{ file, word string }{
		"kernel": {d.Kernel, varKernel},
		"initrd": {d.Initrd, varInitrd},
	} {
		e := os.SelectElement(tag)
		switch {
		case e == nil || !isVariable(e.Text(), f.word):
		case f.file == "":
			os.RemoveChild(e)
		default:
			e.SetText(f.word)
		}
	}
	own := os.SelectElement("kernel")
	switch {
	case d.Kernel == "" || own != nil && own.Text() != varKernel:
		return
	case own == nil:
		os.CreateElement("kernel").SetText(varKernel)
	}
	if d.Initrd != "" && os.SelectElement("initrd") == nil {
		os.CreateElement("initrd").SetText(varInitrd)
	}
	d.fillCmdline(child(os, "cmdline"))
}

// fillCmdline names the root and the serial console, whose output is the console
// log, where the recipe's command line does not.
func (d *domain) fillCmdline(cmdline *etree.Element) {
	root, console := d.rootWords(), "console="+d.console()
	words := strings.Fields(cmdline.Text())
	if len(words) == 0 {
		cmdline.SetText(root + " rw " + console)
		return
	}
	names := func(prefix string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, prefix) })
	}
	// In front: what stands behind a -- is init's. tty0 is where the kernel speaks
	// that is told of no console: who watches the screen still sees it.
	if !names("console=") {
		cmdline.SetText("console=tty0 " + console + " " + strings.TrimSpace(cmdline.Text()))
	}
	if !names("root=") {
		cmdline.SetText(root + " " + strings.TrimSpace(cmdline.Text()))
	}
}

// rootWords name the root for the kernel command line; one that is not known is
// the first partition.
func (d *domain) rootWords() string {
	if d.Root != "" {
		return d.Root
	}
	return "root=/dev/" + d.rootDevice()
}

func (d *domain) console() string {
	if strings.HasPrefix(d.arch(), "aarch64") || strings.HasPrefix(d.arch(), "arm") {
		return "ttyAMA0"
	}
	return "ttyS0"
}

// rootDevice names the first partition as Linux does: vda1 behind virtio, sda1
// behind SATA, SCSI, USB and, with libata, IDE.
func (d *domain) rootDevice() string {
	for _, disk := range d.devices.SelectElements("disk") {
		source := disk.SelectElement("source")
		target := disk.SelectElement("target")
		if source == nil || target == nil || source.SelectAttrValue("file", "") != varImage {
			continue
		}
		name := target.SelectAttrValue("dev", "")
		bus := target.SelectAttrValue("bus", "")
		if bus == "virtio" || bus == "" && strings.HasPrefix(name, "vd") {
			return "vda1"
		}
		return "sda1"
	}
	return "vda1"
}

func (d *domain) arch() string {
	if kind := d.root.FindElement("./os/type"); kind != nil {
		return kind.SelectAttrValue("arch", d.Host.Arch)
	}
	return d.Host.Arch
}

// fillMACs gives each interface without an address one that is the same at every
// start, so that the guest keeps its interface names and the family its rules.
func (d *domain) fillMACs() {
	for i, iface := range d.devices.SelectElements("interface") {
		mac := iface.SelectElement("mac")
		if mac != nil && mac.SelectAttrValue("address", "") != "" {
			continue
		}
		if mac == nil {
			mac = insertAfter(iface, "mac", "")
		}
		mac.CreateAttr("address", MAC(d.FullID, i))
	}
}

// MAC returns the hardware address of a target's interface, counted from 0. The
// prefix is the one QEMU and libvirt give to guests.
func MAC(fullID string, iface int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", fullID, iface))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", sum[0], sum[1], sum[2])
}

// ensureConsole sees to a serial console whose output is kept in ConsoleLog.
func (d *domain) ensureConsole() {
	serial := d.devices.SelectElement("serial")
	if serial == nil {
		serial = d.devices.CreateElement("serial")
		serial.CreateAttr("type", "pty")
	}
	if d.ConsoleLog != "" && serial.SelectElement("log") == nil {
		log := serial.CreateElement("log")
		log.CreateAttr("file", d.ConsoleLog)
		// virtlogd replaces the file of append="off" by one of root's; this one keeps
		// its owner, who can read it. The caller empties it before the start.
		log.CreateAttr("append", "on")
	}
	if d.devices.SelectElement("console") == nil {
		console := d.devices.CreateElement("console")
		console.CreateAttr("type", "pty")
		target := console.CreateElement("target")
		target.CreateAttr("type", "serial")
		target.CreateAttr("port", "0")
	}
}

// ensureRandom gives the guest the host's random numbers: without them its sshd
// waits seconds for the pool to fill.
func (d *domain) ensureRandom() {
	if d.devices.SelectElement("rng") != nil {
		return
	}
	rng := d.devices.CreateElement("rng")
	rng.CreateAttr("model", "virtio")
	backend := rng.CreateElement("backend")
	backend.CreateAttr("model", "random")
	backend.SetText("/dev/urandom")
}

// collect notes which host files and networks the finished document names.
func (d *domain) collect() {
	add := func(list *[]string, s string) {
		if s != "" {
			*list = append(*list, s)
		}
	}
	for _, tag := range []string{"kernel", "initrd"} {
		if e := d.root.FindElement("./os/" + tag); e != nil {
			add(&d.out.Files, strings.TrimSpace(e.Text()))
		}
	}
	for _, source := range d.devices.FindElements("./disk/source") {
		add(&d.out.Files, source.SelectAttrValue("file", ""))
	}
	for _, source := range d.devices.FindElements("./interface/source") {
		add(&d.out.Networks, source.SelectAttrValue("network", ""))
	}
}
