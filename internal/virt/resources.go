package virt

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/beevik/etree"
)

// Resources are amounts of memory and processors: a host's, or those that the
// person wants a guest to have, where 0 leaves it to the recipe.
type Resources struct {
	MemoryMiB int
	CPUs      int
}

// ReadResources returns what the host has.
func ReadResources() (Resources, error) {
	r := Resources{CPUs: runtime.NumCPU()}
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return r, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) > 1 && words[0] == "MemTotal:" {
			kib, err := strconv.Atoi(words[1])
			r.MemoryMiB = kib >> 10
			return r, err
		}
	}
	return r, fmt.Errorf("/proc/meminfo does not say how much memory there is")
}

const (
	// guestShare is how much of the host's memory one guest may have: the host, QEMU
	// itself and the page cache need the rest.
	guestShare = 3.0 / 4
	// floorMiB is what no guest is shrunk below: Debian's own floor without a desktop
	// is 256 (its installation guide, 3.4).
	floorMiB = 256
)

// MemoryOf returns how much memory a recipe's domain asks for, in MiB; 0 if it
// does not say.
func MemoryOf(xml []byte) int {
	doc, err := parseDocument(xml, "domain")
	if err != nil {
		return 0
	}
	e := doc.Root().SelectElement("memory")
	if e == nil {
		return 0
	}
	mib, _ := mebibytes(e)
	return mib
}

// MemoryMiB is how much memory the domain may have.
func (d Domain) MemoryMiB() int { return MemoryOf([]byte(d.XML)) }

// Shares parts what the host has left for guests among those that ask for so much
// each, in MiB: what they ask for if there is enough, else in proportion, none
// below the floor. taken is what other guests have.
func (r Resources) Shares(asked []int, taken int) []int {
	left, sum := int(float64(r.MemoryMiB)*guestShare)-taken, 0
	for _, a := range asked {
		sum += a
	}
	shares := make([]int, len(asked))
	for i, a := range asked {
		if shares[i] = a; sum > left && a > floorMiB {
			shares[i] = max(floorMiB, a*max(left, 0)/sum)
		}
	}
	return shares
}

// fitResources gives the guest what the person asks for, and no more than the
// host has.
func (d *domain) fitResources() {
	d.fitMemory()
	d.fitCPUs()
}

func (d *domain) fitMemory() {
	e := d.root.SelectElement("memory")
	if d.Want.MemoryMiB > 0 {
		d.setMemory(d.Want.MemoryMiB)
		return
	}
	if e == nil || d.Has.MemoryMiB == 0 {
		return
	}
	asked, ok := mebibytes(e)
	most := max(floorMiB, int(float64(d.Has.MemoryMiB)*guestShare))
	with := ""
	if d.ShareMiB > 0 && d.ShareMiB < min(asked, most) {
		most, with = d.ShareMiB, " for it and the others"
	}
	if !ok || asked <= most {
		return
	}
	d.setMemory(most)
	d.warn("%s: it asks for %d MiB of memory, this host has %d%s: %d instead", d.FullID, asked, d.Has.MemoryMiB, with, most)
}

func (d *domain) setMemory(mib int) {
	e := child(d.root, "memory")
	e.CreateAttr("unit", "MiB")
	e.SetText(strconv.Itoa(mib))
	// What it starts with may be no more than all it has.
	for _, tag := range []string{"currentMemory", "maxMemory"} {
		if e := d.root.SelectElement(tag); e != nil {
			d.root.RemoveChild(e)
		}
	}
}

// mebibytes reads an amount of memory as libvirt does (formatdomain: memory).
func mebibytes(e *etree.Element) (int, bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(e.Text()), 10, 64)
	unit, ok := map[string]int64{
		"b": 1, "bytes": 1, "KB": 1e3, "k": 1 << 10, "KiB": 1 << 10, "MB": 1e6, "M": 1 << 20, "MiB": 1 << 20,
		"GB": 1e9, "G": 1 << 30, "GiB": 1 << 30, "TB": 1e12, "T": 1 << 40, "TiB": 1 << 40,
	}[e.SelectAttrValue("unit", "KiB")]
	if err != nil || !ok || n < 0 || n > (1<<62)/unit {
		return 0, false
	}
	return int(n * unit >> 20), true
}

func (d *domain) fitCPUs() {
	e := d.root.SelectElement("vcpu")
	asked := 1
	if e != nil {
		if n, err := strconv.Atoi(strings.TrimSpace(e.Text())); err == nil {
			asked = n
		}
	}
	want := d.Want.CPUs
	if want == 0 && d.Has.CPUs > 0 && asked > d.Has.CPUs {
		want = d.Has.CPUs
		d.warn("%s: it asks for %d processors, this host has %d: %d instead", d.FullID, asked, d.Has.CPUs, want)
	}
	if want == 0 || want == asked {
		return
	}
	e = child(d.root, "vcpu")
	e.SetText(strconv.Itoa(want))
	e.RemoveAttr("current")
	// A topology has to multiply to the number.
	if cpu := d.root.SelectElement("cpu"); cpu != nil && cpu.SelectElement("topology") != nil {
		cpu.RemoveChild(cpu.SelectElement("topology"))
	}
}

// adaptGraphics replaces a display that this QEMU cannot show.
func (d *domain) adaptGraphics() {
	known := d.Host.Graphics
	if known == nil || known["spice"] {
		return
	}
	for _, g := range d.devices.SelectElements("graphics") {
		if g.SelectAttrValue("type", "") != "spice" {
			continue
		}
		instead := "none"
		at := g.Index()
		d.devices.RemoveChild(g)
		if known["vnc"] {
			instead = "vnc on 127.0.0.1"
			vnc := etree.NewElement("graphics")
			vnc.CreateAttr("type", "vnc")
			vnc.CreateAttr("autoport", "yes")
			vnc.CreateAttr("listen", "127.0.0.1")
			d.devices.InsertChildAt(at, vnc)
		}
		d.warn("%s: this QEMU has no spice: its display is %s instead", d.FullID, instead)
	}
	for _, tag := range []string{"channel", "redirdev", "audio"} {
		for _, e := range d.devices.SelectElements(tag) {
			if kind := e.SelectAttrValue("type", ""); kind == "spicevmc" || kind == "spiceport" || kind == "spice" {
				d.devices.RemoveChild(e)
			}
		}
	}
	for _, model := range d.devices.FindElements("./video/model[@type='qxl']") {
		if d.Host.Videos != nil && !d.Host.Videos["qxl"] {
			for _, a := range []string{"ram", "vram", "vram64", "vgamem", "heads"} {
				model.RemoveAttr(a)
			}
			model.CreateAttr("type", "vga")
			d.warn("%s: this QEMU has no video qxl: vga instead", d.FullID)
		}
	}
}
