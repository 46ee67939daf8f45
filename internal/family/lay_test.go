package family_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"meros/internal/family"
	"meros/internal/layout"
)

// shippedPair is a family of the older form: a gateway and a workstation.
func shippedPair() fstest.MapFS {
	files := fstest.MapFS{}
	for name, content := range map[string]string{
		"build/guest.xml":            `<target><build id="guest" kernel="no"/><details username="user"/><network network_addr="10.0.4.1" ip_addr="10.0.4.4"/></target>`,
		"libvirt/dom_sec-guest.xml":  `<domain><uuid>11111111-2222-3333-4444-555555555555</uuid><devices><interface type="network"><mac address="52:54:00:AA:bb:01"/><source network="mos_sec-priv"/></interface></devices></domain>`,
		"libvirt/net_sec-priv.xml":   `<network><name>mos_sec-priv</name><bridge name="mos_sec-priv" stp="on"/><ip address="10.0.4.1" netmask="255.255.255.0"/></network>`,
		"netfilter/fw.nft":           "table inet meros_mos_sec { chain c { iifname \"mos_sec-priv\" ip saddr 10.0.4.4 ip daddr 192.168.1.7 accept; } }\n",
		"rootfs/common/hooks/10-a":   "#!/bin/sh\necho mos_sec is not mos_section, 10.0.4.255 and 10.0.40.1 and 8.8.8.8\n",
		"rootfs/common/hooks/20-elf": "\x7fELF\x00mos_sec",
		"pkg/note":                   "mos_sec,mos_sec",
	} {
		files["target/mos_sec/"+name] = &fstest.MapFile{Data: []byte(content)}
	}
	return files
}

func layPair(t *testing.T, paths layout.Paths, name string, taken family.Taken) error {
	t.Helper()
	return family.Lay(paths, shippedPair(), "target/mos_sec", "mos_sec", name, taken)
}

func TestLay(t *testing.T) {
	paths := layout.Paths{Root: t.TempDir()}
	for _, name := range []string{"mos_sec", "mos_my", "lab", "a_family_with_a_long_name"} {
		if err := layPair(t, paths, name, family.Taken{}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	read := func(name, file string) string {
		content, err := os.ReadFile(filepath.Join(paths.Family(name), file))
		if err != nil {
			t.Error(err)
		}
		return string(content)
	}
	for name, files := range shippedPair() {
		if rel := strings.TrimPrefix(name, "target/mos_sec/"); read("mos_sec", rel) != string(files.Data) {
			t.Errorf("under its own name %s has changed:\n%s", rel, read("mos_sec", rel))
		}
	}
	my, lab := read("mos_my", "libvirt/net_my-priv.xml"), read("lab", "libvirt/net_lab-priv.xml")
	if !strings.Contains(my, `<name>mos_my-priv</name><bridge name="mos_my-priv"`) || strings.Contains(my, "10.0.4.1") {
		t.Errorf("mos_my's network: %s", my)
	}
	if !strings.Contains(lab, `<name>lab-priv</name><bridge name="lab-priv"`) {
		t.Errorf("lab's network: %s", lab)
	}
	long := read("a_family_with_a_long_name", "libvirt/net_a_family_with_a_long_name-priv.xml")
	if !strings.Contains(long, `<name>a_family_with_a_long_name-priv</name><bridge name="a_family_with_0"`) {
		t.Errorf("the long one's network: %s", long)
	}
	if fw := read("a_family_with_a_long_name", "netfilter/fw.nft"); !strings.Contains(fw, `inet meros_a_family_with_a_long_name { chain c { iifname "a_family_with_0"`) || !strings.Contains(fw, "192.168.1.7") {
		t.Errorf("the long one's rules: %s", fw)
	}
	hook := read("lab", "rootfs/common/hooks/10-a")
	if !strings.Contains(hook, "echo lab is not mos_section, 10.") || !strings.Contains(hook, ".255 and 10.0.40.1 and 8.8.8.8") {
		t.Errorf("lab's hook: %s", hook)
	}
	if read("lab", "pkg/note") != "lab,lab" || read("lab", "rootfs/common/hooks/20-elf") != "\x7fELF\x00mos_sec" {
		t.Error("the note is not renamed, or the program is")
	}
	if dom := read("lab", "libvirt/dom_lab-guest.xml"); strings.Contains(dom, "AA:bb") || strings.Contains(dom, "11111111") || !strings.Contains(dom, `network="lab-priv"`) {
		t.Errorf("lab's domain: %s", dom)
	}
	wantApart(t, paths, "mos_sec", "mos_my", "lab", "a_family_with_a_long_name")
}

// wantApart loads families and checks that no two guests share an address.
func wantApart(t *testing.T, paths layout.Paths, names ...string) {
	t.Helper()
	seen := map[netip.Prefix]string{}
	for _, name := range names {
		f, err := family.Load(paths, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		subnet := netip.PrefixFrom(f.Targets[0].Addr, 24).Masked()
		if other := seen[subnet]; other != "" || f.Targets[0].Addr.As4()[3] != 4 {
			t.Errorf("%s has address %s, as %s", name, f.Targets[0].Addr, other)
		}
		seen[subnet] = name
	}
	left, _ := filepath.Glob(filepath.Join(paths.Families(), ".*"))
	if len(left) > 0 {
		t.Errorf("left half-made: %q", left)
	}
}

func TestLayRefuses(t *testing.T) {
	paths := layout.Paths{Root: t.TempDir()}
	if err := layPair(t, paths, "mos_sec", family.Taken{}); err != nil {
		t.Fatal(err)
	}
	if err := layPair(t, paths, "mos_sec", family.Taken{}); !errors.Is(err, family.ErrExists) {
		t.Errorf("a second time: %v", err)
	}
	if err := layPair(t, paths, "../x", family.Taken{}); !errors.Is(err, family.ErrBadName) {
		t.Errorf("../x: %v", err)
	}
	faulty := fstest.MapFS{"target/mos_sec/build/guest.xml": {Data: []byte("<target>")}}
	err := family.Lay(paths, faulty, "target/mos_sec", "mos_sec", "broken", family.Taken{})
	if _, statErr := os.Stat(paths.Family("broken")); err == nil || statErr == nil {
		t.Errorf("a faulty one: %v, in place: %v", err, statErr)
	}
	wantApart(t, paths, "mos_sec")
}

func TestLayAvoidsWhatTheHostHas(t *testing.T) {
	paths := layout.Paths{Root: t.TempDir()}
	taken := family.Taken{Bridges: []string{"mos_sec-priv"}, Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}}
	if err := layPair(t, paths, "mos_sec", taken); err != nil {
		t.Fatal(err)
	}
	f, err := family.Load(paths, "mos_sec")
	if err != nil {
		t.Fatal(err)
	}
	content, _ := os.ReadFile(f.Networks[0].File)
	if taken.Subnets[0].Contains(f.Targets[0].Addr) || strings.Contains(string(content), `bridge name="mos_sec-priv"`) {
		t.Errorf("address %s, network %s", f.Targets[0].Addr, content)
	}
}
