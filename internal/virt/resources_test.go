package virt

import (
	"slices"
	"strings"
	"testing"
)

func TestResources(t *testing.T) {
	const recipe = `<domain type="kvm"><memory unit="GiB">8</memory><currentMemory unit="GiB">8</currentMemory><vcpu current="2">16</vcpu><cpu><topology sockets="1" cores="16" threads="1"/></cpu><os><type arch="x86_64">hvm</type></os><devices/></domain>`
	for name, c := range map[string]struct {
		want, has Resources
		in        []string
		warnings  int
	}{
		"fits":      {has: Resources{64 << 10, 32}, in: []string{`<memory unit="GiB">8<`, `<vcpu current="2">16<`, "topology", "currentMemory"}},
		"shrunk":    {has: Resources{4 << 10, 2}, in: []string{`<memory unit="MiB">3072<`, "<vcpu>2<"}, warnings: 2},
		"floor":     {has: Resources{128, 2}, in: []string{`<memory unit="MiB">256<`}, warnings: 2},
		"person's":  {want: Resources{512, 3}, has: Resources{1 << 10, 2}, in: []string{`<memory unit="MiB">512<`, "<vcpu>3<"}},
		"not known": {in: []string{`<memory unit="GiB">8<`}},
	} {
		d, err := DomainDocument([]byte(recipe), Guest{FullID: "f-t", Want: c.want, Has: c.has, Accel: Accel{KVM: true}, Host: Capabilities{Arch: "x86_64"}})
		if err != nil || len(d.Warnings) != c.warnings {
			t.Errorf("%s: %v, warnings %q, want %d", name, err, d.Warnings, c.warnings)
		}
		for _, word := range c.in {
			if !strings.Contains(d.XML, word) {
				t.Errorf("%s: no %s in\n%s", name, word, d.XML)
			}
		}
		if c.warnings == 2 && (strings.Contains(d.XML, "topology") || strings.Contains(d.XML, "currentMemory")) {
			t.Errorf("%s: what no longer fits is left:\n%s", name, d.XML)
		}
	}
}

func TestNoSpice(t *testing.T) {
	const recipe = `<domain type="kvm"><memory>1</memory><os><type>hvm</type></os><devices><graphics type="spice" autoport="yes"/><channel type="spicevmc"/><channel type="unix"/><redirdev bus="usb" type="spicevmc"/><video><model type="qxl" ram="65536"/></video></devices></domain>`
	for name, c := range map[string]struct {
		graphics, videos Set
		has, lacks       []string
	}{
		"all there": {Set{"spice": true}, Set{"qxl": true}, []string{`type="spice"`, "spicevmc", "qxl"}, nil},
		"not known": {nil, nil, []string{`type="spice"`}, nil},
		"vnc":       {Set{"vnc": true}, Set{"vga": true}, []string{`<graphics type="vnc" autoport="yes" listen="127.0.0.1"`, `channel type="unix"`, `model type="vga"/>`}, []string{"spice", "qxl"}},
		"nothing":   {Set{}, Set{"qxl": true}, []string{"qxl"}, []string{"spice", "<graphics"}},
	} {
		d, err := DomainDocument([]byte(recipe), Guest{FullID: "f-t", Accel: Accel{KVM: true}, Host: Capabilities{Graphics: c.graphics, Videos: c.videos}})
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range c.has {
			if !strings.Contains(d.XML, word) {
				t.Errorf("%s: no %s in\n%s", name, word, d.XML)
			}
		}
		for _, word := range c.lacks {
			if strings.Contains(d.XML, word) {
				t.Errorf("%s: %s is left in\n%s", name, word, d.XML)
			}
		}
	}
}

func TestShares(t *testing.T) {
	host := Resources{MemoryMiB: 4096} // 3072 for guests
	for _, c := range []struct {
		asked []int
		taken int
		want  []int
	}{
		{[]int{1024, 2048}, 0, []int{1024, 2048}},
		{[]int{1024, 2048}, 1, []int{1023, 2047}},
		{[]int{4096, 2048}, 0, []int{2048, 1024}},
		{[]int{6000, 300, 128}, 0, []int{2867, 256, 128}},
		{[]int{1024, 512}, 9000, []int{256, 256}},
		{nil, 0, []int{}},
	} {
		if got := host.Shares(c.asked, c.taken); !slices.Equal(got, c.want) {
			t.Errorf("Shares(%v, %d) = %v, want %v", c.asked, c.taken, got, c.want)
		}
	}
}

func TestShareIsSaid(t *testing.T) {
	g := testGuest()
	g.Has, g.ShareMiB = Resources{MemoryMiB: 4096, CPUs: 2}, 700
	xml := `<domain type="kvm"><memory unit="GiB">2</memory><os><type arch="x86_64">hvm</type></os><devices/></domain>`
	d, err := DomainDocument([]byte(xml), g)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(d.Warnings, "; "), "it asks for 2048 MiB of memory, this host has 4096 for it and the others: 700 instead"; !strings.Contains(got, want) {
		t.Errorf("warnings %q, want %q", got, want)
	}
	if got := MemoryOf([]byte(d.XML)); got != 700 {
		t.Errorf("it has %d MiB", got)
	}
}
