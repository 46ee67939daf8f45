package virt

import (
	"strings"
	"testing"

	"github.com/beevik/etree"
)

// FuzzDocuments fills documents that anybody may have written: what libvirt gets is
// named after the target, and carries our mark and no other of our kind.
func FuzzDocuments(f *testing.F) {
	f.Add(`<domain type="kvm"><name>$TARGET_FULL_ID</name><os><type machine="q35">hvm</type></os><devices><disk/><interface/></devices></domain>`)
	f.Add(`<domain><metadata><m:target xmlns:m="urn:meros:object:1" family="other" target="x" root="/"/></metadata></domain>`)
	f.Add(`<domain><name><b>x</b></name><name>y</name><devices/><devices/></domain>`)
	f.Add(`<network><name>$NETWORK_FULL_ID</name><ip address="1.2.3.4" netmask="0.0.0.1"/><ip address="::1" prefix="999"/></network>`)
	f.Add(`<network><bridge/><ip/></network>`)
	owner := Owner{Family: "fam", Target: "box", Root: "/srv"}
	f.Fuzz(func(t *testing.T, xml string) {
		d, err := DomainDocument([]byte(xml), Guest{FullID: "fam-box", Owner: owner, Image: "/srv/x", Host: Capabilities{Arch: "x86_64"}, Exists: func(string) bool { return false }})
		if err == nil {
			wantOwned(t, d.XML, "fam-box", owner)
			d.WithBacking("/srv/x", "/srv/y")
			d.WithoutConsoleLog("/srv/z")
		}
		n, err := NetworkDocument([]byte(xml), "fam_net", owner)
		if err == nil {
			wantOwned(t, n.XML, n.Name, Owner{Family: "fam", Root: "/srv"})
		}
	})
}

func wantOwned(t *testing.T, xml, name string, owner Owner) {
	t.Helper()
	doc := etree.NewDocument()
	if err := doc.ReadFromString(xml); err != nil {
		t.Fatalf("no document: %v\n%s", err, xml)
	}
	if got := strings.TrimSpace(doc.Root().SelectElement("name").Text()); got != name {
		t.Errorf("it is called %q, want %q:\n%s", got, name, xml)
	}
	if got, _ := ownerIn(xml); got != owner {
		t.Errorf("it belongs to %+v, want %+v:\n%s", got, owner, xml)
	}
}
