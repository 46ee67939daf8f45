package virt

import (
	"strings"
	"testing"
)

func TestKernelCommandLine(t *testing.T) {
	const root = "root=PARTUUID=11111111-2222-8333-8444-555555555555"
	for _, tt := range []struct{ name, os, root, want string }{
		{"all of it", "<type>hvm</type>", root, "<cmdline>no_timer_check " + root + " rw console=ttyS0</cmdline>"},
		{"an image not known", "<type>hvm</type>", "", "<cmdline>no_timer_check root=/dev/sda1 rw console=ttyS0</cmdline>"},
		{"no root", "<type>hvm</type><cmdline>quiet console=ttyS0</cmdline>", root, "<cmdline>no_timer_check " + root + " quiet console=ttyS0</cmdline>"},
		{"a root", "<type>hvm</type><cmdline>root=/dev/sda1 rw console=tty0</cmdline>", root, "<cmdline>no_timer_check root=/dev/sda1 rw console=tty0</cmdline>"},
		{"no console", "<type>hvm</type><cmdline>root=/dev/sda1 rw netconsole=x quiet</cmdline>", root, "<cmdline>no_timer_check console=tty0 console=ttyS0 root=/dev/sda1 rw netconsole=x quiet</cmdline>"},
		{"no console on arm", `<type arch="aarch64">hvm</type><cmdline>root=/dev/sda1</cmdline>`, root, "<cmdline>console=tty0 console=ttyAMA0 root=/dev/sda1</cmdline>"},
		{"neither", "<type>hvm</type><cmdline>quiet</cmdline>", root, "<cmdline>no_timer_check " + root + " console=tty0 console=ttyS0 quiet</cmdline>"},
		{"a timer check that is left out", "<type>hvm</type><cmdline>root=/dev/sda1 console=ttyS0 no_timer_check rw</cmdline>", root, "<cmdline>root=/dev/sda1 console=ttyS0 no_timer_check rw</cmdline>"},
		{"words of init", "<type>hvm</type><cmdline>root=/dev/sda1 console=ttyS0 -- single</cmdline>", root, "<cmdline>no_timer_check root=/dev/sda1 console=ttyS0 -- single</cmdline>"},
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
