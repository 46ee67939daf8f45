package lint

import (
	"strings"
	"testing"
)

func TestWhatWidensADomain(t *testing.T) {
	for xml, want := range map[string]string{
		`<hostdev mode="subsystem" type="pci"/>`:                                    "a part of the host",
		"<!-- <hostdev/>\n<sound model=\"ich9\"/> -->":                              "",
		"<input\n  type='tablet'\n  bus='usb'/>":                                    "a tablet",
		`<input type="keyboard" bus="ps2"/>`:                                        "",
		`<input type="evdev"/>`:                                                     "keyboard or mouse",
		`<sound model="ich9"/>`:                                                     "sound",
		`<audio id="1" type="none"/>`:                                               "",
		`<redirdev bus="usb" type="tcp"/>`:                                          "passes USB devices",
		`<channel type="spicevmc"><target type="virtio" name="x"/></channel>`:       "the person's desktop",
		`<controller type="usb" model="qemu-xhci"/>`:                                "a USB controller",
		`<controller type="usb" model="none"/>`:                                     "",
		`<disk type="block"><source dev="/dev/sdb"/></disk>`:                        "a disk of the host",
		`<disk type="file"><source file="$TARGET_ROOTFS_IMG"/></disk>`:              "",
		`<tpm model="tpm-crb"><backend type="passthrough"/></tpm>`:                  "the host's TPM",
		`<tpm model="tpm-crb"><backend type="emulator"/></tpm>`:                     "",
		`<rng model="virtio"><backend model="random">/dev/urandom</backend></rng>`:  "",
		`<graphics type="vnc" listen="0.0.0.0"/>`:                                   "open to the network",
		`<graphics type="spice"><listen type="address" address="::"/></graphics>`:   "open to the network",
		`<graphics type="spice"><listen type="none"/></graphics>`:                   "",
		`<video><model type="virtio"><acceleration accel3d="yes"/></model></video>`: "graphics driver",
		`<serial type="tcp"><source mode="bind"/></serial>`:                         "file, device or socket",
		`<serial type="pty"/>`:                                                      "",
		`<interface type="bridge"><source bridge="br0"/></interface>`:               "not the family's",
		`<vsock model="virtio"/>`:                                                   "no network",
		`<emulator>/home/ada/qemu</emulator>`:                                       "not the distribution's QEMU",
		`<emulator>/usr/bin/qemu-system-x86_64</emulator>`:                          "",
		`<watchdog model="i6300esb" action="dump"/>`:                                "fill the host's disk",
	} {
		l := &linter{}
		l.libvirt("libvirt/a.xml", []byte("<domain type=\"kvm\">\n<devices>"+xml+"</devices></domain>"))
		var got []string
		for _, f := range l.found {
			got = append(got, f.What)
			if f.Line < 2 || f.Why == "" || f.Fix == "" {
				t.Errorf("%s: %+v lacks something", xml, f)
			}
		}
		if (want == "") != (len(got) == 0) || !strings.Contains(strings.Join(got, "; "), want) {
			t.Errorf("%s: found %q, want %q", xml, got, want)
		}
	}
	l := &linter{}
	l.libvirt("libvirt/a.xml", []byte("<domain xmlns:qemu=\"http://libvirt.org/schemas/domain/qemu/1.0\">\n<on_crash>restart</on_crash>\n<qemu:commandline><qemu:arg value=\"-s\"/></qemu:commandline><seclabel type=\"none\"/></domain>"))
	if len(l.found) != 4 || l.found[0].Line != 2 {
		t.Errorf("found %+v, want four things", l.found)
	}
}
