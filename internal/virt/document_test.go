package virt

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite testdata/*.want")

func testGuest() Guest {
	return Guest{
		FullID:     "mos_sec-guest",
		Owner:      Owner{Family: "mos_sec", Target: "guest", Root: "/srv/a & b"},
		Image:      "/srv/a & b/data/images/mos_sec-guest.qcow2",
		Kernel:     "/srv/$KERNEL_IMG/k",
		Initrd:     "/srv/i",
		Networks:   []string{"mos_sec"},
		ConsoleLog: "/srv/log",
		Host: Capabilities{
			Arch:      "x86_64",
			Machines:  map[string]Set{"x86_64": {"pc": true, "q35": true, "pc-q35-7.2": true}, "aarch64": {"virt": true}},
			CPUModes:  Set{"maximum": true, "custom": true},
			CPUModels: Set{"qemu64": true},
		},
		Exists: func(file string) bool { return file == "/usr/bin/qemu-system-x86_64" },
	}
}

func TestDomainDocument(t *testing.T) {
	files, err := filepath.Glob("testdata/domain/*.xml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			g := testGuest()
			g.Accel.KVM = strings.HasSuffix(file, ".kvm.xml")
			d, err := DomainDocument(read(t, file), g)
			if err != nil {
				t.Fatal(err)
			}
			got := d.XML + "\n"
			for _, w := range d.Warnings {
				got += "warning: " + w + "\n"
			}
			for _, f := range d.Files {
				got += "file: " + f + "\n"
			}
			for _, n := range d.Networks {
				got += "network: " + n + "\n"
			}
			golden(t, strings.TrimSuffix(file, ".xml")+".want", got)
			if owner, _ := ownerIn(d.XML); owner != g.Owner {
				t.Errorf("ownerIn = %+v, want %+v", owner, g.Owner)
			}
		})
	}
}

func TestNetworkDocument(t *testing.T) {
	files, err := filepath.Glob("testdata/network/*.xml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			owner := Owner{Family: "mos_sec", Root: "/srv"}
			d, err := NetworkDocument(read(t, file), "mos_sec-priv", owner)
			if err != nil {
				t.Fatal(err)
			}
			got := d.XML + "\nname: " + d.Name + "\nbridge: " + d.Bridge + "\n"
			for _, p := range d.Subnets {
				got += "subnet: " + p.String() + "\n"
			}
			golden(t, strings.TrimSuffix(file, ".xml")+".want", got)
			if got, _ := ownerIn(d.XML); got != owner {
				t.Errorf("ownerIn = %+v, want %+v", got, owner)
			}
		})
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(read(t, file)), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func TestDocumentFaults(t *testing.T) {
	noKernel := testGuest()
	noKernel.Kernel, noKernel.Initrd = "", ""
	twoNets := testGuest()
	twoNets.Networks = []string{"a", "b"}
	for _, c := range []struct {
		name, xml string
		g         Guest
		want      string // "" when the document is good
	}{
		{"truncated", `<domain><name>`, testGuest(), "not well-formed"},
		{"empty", ``, testGuest(), "the root element is not <domain>"},
		{"two roots", `<domain/><domain/>`, testGuest(), "not well-formed"},
		{"text behind", `<domain/>x`, testGuest(), "not well-formed"},
		{"other root", `<network/>`, testGuest(), "the root element is not <domain>"},
		{"DTD", `<!DOCTYPE domain [<!ENTITY a "b">]><domain/>`, testGuest(), "document type declaration"},
		{"entity", `<domain><name>&a;</name></domain>`, testGuest(), "not well-formed"},
		{"no kernel", `<domain><os><kernel>$KERNEL_IMG</kernel></os></domain>`, noKernel, ""},
		{"no kernel, named elsewhere", `<domain><title>$KERNEL_IMG</title></domain>`, noKernel, "<title>: nothing stands for $KERNEL_IMG"},
		{"which network", `<domain><devices><interface><source network="$NETWORK_FULL_ID"/></interface></devices></domain>`, twoNets, "<source>: nothing stands for $NETWORK_FULL_ID"},
		{"value is data", `<domain><title>$TARGET_ROOTFS_IMG</title></domain>`, testGuest(), ""},
	} {
		_, err := DomainDocument([]byte(c.xml), c.g)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: DomainDocument = %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := NetworkDocument([]byte(`<network><name>$TARGET_FULL_ID</name></network>`), "x", Owner{}); err == nil {
		t.Error("NetworkDocument takes a target's word")
	}
}

func TestWithoutConsoleLog(t *testing.T) {
	d, err := DomainDocument(read(t, "testdata/domain/bare.tcg.xml"), testGuest())
	if err != nil {
		t.Fatal(err)
	}
	if got := d.WithoutConsoleLog("/srv/log").XML; strings.Contains(got, "<log") || !strings.Contains(got, "<serial") {
		t.Errorf("WithoutConsoleLog = %s", got)
	}
}

func TestClashes(t *testing.T) {
	prefix := netip.MustParsePrefix
	host := HostNet{
		Links:  []string{"eth0", "virbr0", "br7"},
		Routes: []Route{{prefix("192.0.2.0/24"), "eth0"}, {prefix("192.168.122.0/24"), "virbr0"}},
		Addrs:  []Route{{prefix("192.168.122.1/32"), "virbr0"}, {prefix("198.51.100.7/32"), "dummy0"}},
	}
	running := []Network{{Name: "default", Active: true, XML: `<network><name>default</name><bridge name="virbr0"/><ip address="192.168.122.1" netmask="255.255.255.0"/></network>`}}
	for _, c := range []struct {
		name  string
		start []NetworkDoc
		want  string
	}{
		{"free", []NetworkDoc{{Name: "n", Bridge: "br8", Subnets: []netip.Prefix{prefix("10.0.4.0/24")}}}, ""},
		{"bridge of a network", []NetworkDoc{{Name: "n", Bridge: "virbr0"}}, "network n: its bridge virbr0 is taken by the libvirt network default of another program"},
		{"bridge is a link", []NetworkDoc{{Name: "n", Bridge: "br7"}}, "network n: its bridge br7 is taken by the link br7 of this host"},
		{"subnet of a network", []NetworkDoc{{Name: "n", Subnets: []netip.Prefix{prefix("192.168.0.0/16")}}}, "network n: its subnet 192.168.0.0/16 is taken by the libvirt network default of another program"},
		{"subnet is routed", []NetworkDoc{{Name: "n", Subnets: []netip.Prefix{prefix("192.0.2.128/25")}}}, "network n: its subnet 192.0.2.128/25 is taken by the route 192.0.2.0/24 on eth0 of this host"},
		{"subnet holds an address", []NetworkDoc{{Name: "n", Subnets: []netip.Prefix{prefix("198.51.100.0/24")}}}, "network n: its subnet 198.51.100.0/24 is taken by the address 198.51.100.7 on dummy0 of this host"},
		{"within the family", []NetworkDoc{{Name: "a", Bridge: "b"}, {Name: "c", Bridge: "b"}}, "network c: its bridge b is taken by the network a of this family"},
	} {
		var got []string
		for _, err := range Clashes(c.start, running, host) {
			got = append(got, err.Error())
		}
		if strings.Join(got, "; ") != c.want {
			t.Errorf("%s: Clashes = %q, want %q", c.name, got, c.want)
		}
	}
}

func TestMAC(t *testing.T) {
	a, b := MAC("mos_sec-guest", 0), MAC("mos_sec-guest", 1)
	if a == b || a != MAC("mos_sec-guest", 0) || !strings.HasPrefix(a, "52:54:00:") {
		t.Errorf("MAC = %s and %s", a, b)
	}
}

// TestOpens is of what libvirt has the whole host forward.
func TestOpens(t *testing.T) {
	for xml, want := range map[string]string{
		`<network><ip address="10.62.1.1" prefix="24"/></network>`:                                                             "",
		`<network><forward/><ip address="10.62.1.1" prefix="24"/></network>`:                                                   "ipv4",
		`<network><forward mode="open"/><ip address="10.62.1.1"/><ip family="ipv6" address="fd62::1"/></network>`:              "ipv4 ipv6",
		`<network><forward mode="route"/><ip family="ipv6" address="fd62::1"/><ip family="ipv6" address="fd63::1"/></network>`: "ipv6",
		`<network><forward mode="nat"/></network>`:                                                                             "",
		`<network><forward mode="bridge"/><bridge name="br0"/></network>`:                                                      "",
	} {
		n, err := NetworkDocument([]byte(xml), "x_net", Owner{Family: "x", Root: "/srv"})
		if got := strings.Join(n.Opens, " "); err != nil || got != want {
			t.Errorf("%s: Opens = %q, %v, want %q", xml, got, err, want)
		}
	}
}
