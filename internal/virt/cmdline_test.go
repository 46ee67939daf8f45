package virt

import (
	"strings"
	"testing"
)

func TestKernelCommandLine(t *testing.T) {
	const root = "root=PARTUUID=11111111-2222-8333-8444-555555555555"
	for _, tt := range []struct{ name, os, root, want string }{
		{"all of it", "<type>hvm</type>", root, "<cmdline>" + root + " rw console=ttyS0 no_timer_check</cmdline>"},
		{"an image not known", "<type>hvm</type>", "", "<cmdline>root=/dev/sda1 rw console=ttyS0 no_timer_check</cmdline>"},
		{"no root", "<type>hvm</type><cmdline>quiet console=ttyS0</cmdline>", root, "<cmdline>" + root + " quiet console=ttyS0 no_timer_check</cmdline>"},
		{"a root", "<type>hvm</type><cmdline>root=/dev/sda1 rw console=tty0</cmdline>", root, "<cmdline>root=/dev/sda1 rw console=tty0 no_timer_check</cmdline>"},
		{"no console", "<type>hvm</type><cmdline>root=/dev/sda1 rw netconsole=x quiet</cmdline>", root, "<cmdline>console=tty0 console=ttyS0 root=/dev/sda1 rw netconsole=x quiet no_timer_check</cmdline>"},
		{"no console on arm", `<type arch="aarch64">hvm</type><cmdline>root=/dev/sda1</cmdline>`, root, "<cmdline>console=tty0 console=ttyAMA0 root=/dev/sda1</cmdline>"},
		{"neither", "<type>hvm</type><cmdline>quiet</cmdline>", root, "<cmdline>" + root + " console=tty0 console=ttyS0 quiet no_timer_check</cmdline>"},
		{"a timer check that is left out", "<type>hvm</type><cmdline>root=/dev/sda1 console=ttyS0 no_timer_check rw</cmdline>", root, "<cmdline>root=/dev/sda1 console=ttyS0 no_timer_check rw</cmdline>"},
		{"arm", `<type arch="aarch64">hvm</type>`, root, "console=ttyAMA0</cmdline>"},
		{"a kernel of the recipe's", "<type>hvm</type><kernel>/other</kernel>", root, "<kernel>/other</kernel>"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			xml := `<domain type="qemu"><os>` + tt.os + `<initrd>$INITRD_IMG</initrd></os><devices><disk><target dev="sda" bus="sata"/></disk></devices></domain>`
			d, err := DomainDocument([]byte(xml), Guest{FullID: "mos_a-b", Image: "/i.qcow2", Kernel: "/k", Root: tt.root, Host: Capabilities{Arch: "x86_64"}})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(d.XML, tt.want) || strings.Contains(d.XML, "<initrd>") {
				t.Errorf("want %s and no initrd in:\n%s", tt.want, d.XML)
			}
		})
	}
}
