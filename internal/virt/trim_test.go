package virt

import (
	"strings"
	"testing"
)

func TestUSBOnlyWhereTheRecipeHasIt(t *testing.T) {
	for devices, usb := range map[string]bool{
		"": false,
		`<disk device="cdrom"><target dev="sda" bus="sata"/></disk>`: false,
		`<input type="keyboard" bus="ps2"/>`:                         false,
		`<hostdev mode="subsystem" type="pci"/>`:                     false,
		`<disk device="disk"><target dev="sda" bus="usb"/></disk>`:   true,
		`<input type="tablet"/>`:                                     true,
		`<input type="tablet" bus="virtio"/>`:                        false,
		`<input type="keyboard" bus="usb"/>`:                         true,
		`<redirdev bus="usb" type="spicevmc"/>`:                      true,
		`<hostdev mode="subsystem" type="usb"/>`:                     true,
		`<controller type="usb" model="qemu-xhci"/>`:                 true,
		`<serial type="pty"><target type="usb-serial"/></serial>`:    true,
		`<sound model="usb"/>`:                                       true,
	} {
		xml := `<domain type="kvm"><memory>1</memory><os><type arch="x86_64">hvm</type></os><devices>` + devices + `</devices></domain>`
		d, err := DomainDocument([]byte(xml), testGuest())
		if err != nil {
			t.Fatal(err)
		}
		if trimmed := strings.Contains(d.XML, `<controller type="usb" model="none"/>`); trimmed == usb {
			t.Errorf("%s: USB is taken away: %v", devices, trimmed)
		}
	}
}
