package lifecycle

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"meros/internal/capture"
	"meros/internal/family"
	"meros/internal/netfilter"
)

// TestFirstPackets looks at the first moments of a guest whose firmware asks the whole
// network for a server before anything else runs in it: it is heard by nobody.
func TestFirstPackets(t *testing.T) {
	files := guarded()
	files["libvirt/box.xml"] = strings.Replace(files["libvirt/box.xml"], "</os>", `<boot dev="network"/></os>`, 1)
	b, bridge := newGuardedBench(t, files)
	f, err := family.Load(b.Paths, b.family)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := b.Rules(f)
	if err != nil {
		t.Fatal(err)
	}
	host := map[netip.Addr]string{f.Policy.Segments[0].Host[0].Addr(): bridge}
	w, err := netfilter.NewWatch(netfilter.NewOracle(f, rules, netfilter.Host{}, host))
	if err != nil {
		t.Fatal(err)
	}
	w.Begin("start")
	own, err := capture.Open() // what the guest itself sends
	if err != nil {
		t.Fatal(err)
	}
	done, asked := make(chan struct{}), make(chan string, 1)
	ended := make(chan error)
	go func() {
		ended <- own.Run(done, func(p capture.Frame) {
			if p.Link == netfilter.Device(b.family+"-box", 0) && !p.Out && p.DestPort == 67 {
				select {
				case asked <- p.Packet.String():
				default:
				}
			}
		})
	}()
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatalf("%v\n%s", err, b.said)
	}
	select {
	case packet := <-asked:
		t.Log(packet)
	case <-time.After(2 * time.Minute):
		t.Error("the firmware has asked for nothing")
	}
	close(done)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	_ = own.Close()
	leaks, _ := w.Leaks()
	for _, l := range leaks {
		t.Errorf("at %s: %s: %s", l.Where, l.Packet, l.Why)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}
