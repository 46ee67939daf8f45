package graph_test

import (
	"encoding/xml"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/family"
	"meros/internal/graph"
	"meros/internal/layout"
)

// gateway is a pair of targets on two networks, of which the host is on one.
var gateway = map[string]string{
	"build/gate.xml":       `<target><build id="gate"/><details username="root" border="#d1242f"/><network network_addr="10.64.1.1" ip_addr="10.64.1.2"/></target>`,
	"build/desk.xml":       `<target><build id="desk"/><details username="user"/><network network_addr="10.64.2.1" ip_addr="10.64.2.4"/></target>`,
	"libvirt/gate.xml":     `<domain><devices><interface type="network"><source network="pair_pub"/></interface><interface type="network"><source network="pair_priv"/></interface></devices></domain>`,
	"libvirt/desk.xml":     `<domain><devices><interface type="network"><source network="pair_priv"/></interface></devices></domain>`,
	"libvirt/pub.xml":      `<network><bridge name="b_pub"/><forward mode="open"/><ip address="10.64.1.1" netmask="255.255.255.0"/></network>`,
	"libvirt/priv.xml":     `<network><bridge name="b_priv"/></network>`,
	"netfilter/policy.xml": `<policy><port target="gate" network="pair_priv" addr="10.64.2.1"/><allow from="gate" to="internet" proto="tcp" ports="443"/><allow from="desk" to="gate" proto="tcp" ports="9050"/><allow from="desk" to="gate" proto="udp" ports="53 123"/></policy>`,
}

func load(t *testing.T, files map[string]string) *graph.Graph {
	t.Helper()
	paths := layout.Paths{Root: t.TempDir()}
	for name, content := range files {
		if err := paths.WriteFile(filepath.Join(paths.Family("pair"), name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := family.Load(paths, "pair")
	if err != nil {
		t.Fatal(err)
	}
	g, err := graph.New(f)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func wellFormed(t *testing.T, document string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(document)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
	}
}

func TestForms(t *testing.T) {
	g := load(t, gateway)
	svg := g.SVG()
	wellFormed(t, svg)
	for form, words := range map[string][]string{
		svg:         {">gate<", ">desk<", ">pair_pub<", "10.64.1.0/24", ">10.64.1.2<", ">10.64.2.1<", ">10.64.2.4<", "the host is not on it", "forwarded: open", "#d1242f", "desk → gate: tcp 9050; udp 53, 123", ">internet<"},
		g.DOT():     {"digraph \"pair\" {", "net_pair_priv -> target_desk [dir=none, label=\"10.64.2.4\"]", "target_desk -> target_gate [color"},
		g.Mermaid(): {"flowchart LR\n", "net_pair_priv ---|\"10.64.2.1\"| target_gate", "target_gate -.->|\"tcp 443\"| internet"},
	} {
		for _, word := range words {
			if !strings.Contains(form, word) {
				t.Errorf("no %q in\n%s", word, form)
			}
		}
	}
	if again := load(t, gateway); again.SVG() != svg || again.DOT() != g.DOT() {
		t.Error("the same recipe gives another picture")
	}
}

// A target without a domain, a network nobody is on, and one of somebody else's.
func TestLooseEnds(t *testing.T) {
	g := load(t, map[string]string{
		"build/a.xml":    `<target><build id="a"/></target>`,
		"libvirt/n.xml":  `<network><bridge name="b"/></network>`,
		"libvirt/b.xml":  `<domain><name>&lt;x&gt;</name><devices><interface><source network="de&lt;fault&gt;"/></interface></devices></domain>`,
		"libvirt/mm.xml": `<network><name>a&amp;b</name></network>`,
	})
	wellFormed(t, g.SVG())
	for _, form := range []string{g.SVG(), g.Mermaid()} {
		if strings.Contains(form, "<fault>") || !strings.Contains(form, "de&lt;fault&gt;") {
			t.Errorf("a network's name reaches the picture raw:\n%s", form)
		}
	}
}
