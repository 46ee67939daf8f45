package virt

import (
	"strings"
	"testing"
)

func TestKernelCommandLine(t *testing.T) {
	const uuid = "11111111-2222-8333-8444-555555555555"
	for _, tt := range []struct{ name, os, part, want string }{
		{"all of it", "<type>hvm</type>", uuid, "<cmdline>root=PARTUUID=" + uuid + " rw console=ttyS0 no_timer_check</cmdline>"},
		{"an image not known", "<type>hvm</type>", "", "<cmdline>root=/dev/sda1 rw console=ttyS0 no_timer_check</cmdline>"},
		{"no root", "<type>hvm</type><cmdline>quiet console=ttyS0</cmdline>", uuid, "<cmdline>root=PARTUUID=" + uuid + " quiet console=ttyS0 no_timer_check</cmdline>"},
		{"a root", "<type>hvm</type><cmdline>root=/dev/sda1 rw console=tty0</cmdline>", uuid, "<cmdline>root=/dev/sda1 rw console=tty0 no_timer_check</cmdline>"},
		{"no console", "<type>hvm</type><cmdline>root=/dev/sda1 rw netconsole=x quiet</cmdline>", uuid, "<cmdline>console=tty0 console=ttyS0 root=/dev/sda1 rw netconsole=x quiet no_timer_check</cmdline>"},
		{"no console on arm", `<type arch="aarch64">hvm</type><cmdline>root=/dev/sda1</cmdline>`, uuid, "<cmdline>console=tty0 console=ttyAMA0 root=/dev/sda1</cmdline>"},
		{"neither", "<type>hvm</type><cmdline>quiet</cmdline>", uuid, "<cmdline>root=PARTUUID=" + uuid + " console=tty0 console=ttyS0 quiet no_timer_check</cmdline>"},
		{"a timer check that is left out", "<type>hvm</type><cmdline>root=/dev/sda1 console=ttyS0 no_timer_check rw</cmdline>", uuid, "<cmdline>root=/dev/sda1 console=ttyS0 no_timer_check rw</cmdline>"},
		{"arm", `<type arch="aarch64">hvm</type>`, uuid, "console=ttyAMA0</cmdline>"},
		{"a kernel of the recipe's", "<type>hvm</type><kernel>/other</kernel>", uuid, "<kernel>/other</kernel>"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			xml := `<domain type="qemu"><os>` + tt.os + `<initrd>$INITRD_IMG</initrd></os><devices><disk><target dev="sda" bus="sata"/></disk></devices></domain>`
			d, err := DomainDocument([]byte(xml), Guest{FullID: "mos_a-b", Image: "/i.qcow2", Kernel: "/k", RootPart: tt.part, Host: Capabilities{Arch: "x86_64"}})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(d.XML, tt.want) || strings.Contains(d.XML, "<initrd>") {
				t.Errorf("want %s and no initrd in:\n%s", tt.want, d.XML)
			}
		})
	}
}
