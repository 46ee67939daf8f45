package lifecycle

import (
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"meros/internal/virt"
)

// Stopping everything waits for who works on a family, as stopping the family does.
func TestShutdownAllWaitsForItsTurn(t *testing.T) {
	b := newBench(t, testURI, pair())
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatal(err)
	}
	unlock, err := b.lock(t.Context(), b.family, "test")
	if err != nil {
		t.Fatal(err)
	}
	domains, err := b.Active(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	domains = slices.DeleteFunc(domains, func(d virt.Domain) bool { return d.Owner.Family != b.family })
	done := make(chan error, 1)
	go func() { done <- b.ShutdownAll(t.Context(), domains, ShutdownOptions{Force: true}) }()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(b.said.String(), "waiting for: "); {
		if time.Now().After(deadline) || len(done) > 0 {
			t.Fatalf("it waits for nobody:\n%s", b.said)
		}
		time.Sleep(time.Millisecond)
	}
	b.wantRuns("-a", "-b", "_net")
	unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
	b.wantRuns()
}

// A bridge that a libvirt which died has left goes with everything, whether or not its
// family has rules.
func TestShutdownAllTakesLeftBridges(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a bridge takes root")
	}
	files, bridge := pair(), "mtl"+strconv.Itoa(os.Getpid())
	files["libvirt/net.xml"] = `<network><bridge name="` + bridge + `"/></network>`
	b := newBench(t, testURI, files)
	docs, err := b.networkDocs(b.load())
	if err != nil {
		t.Fatal(err)
	}
	_, mac, _ := strings.Cut(docs[0].XML, `<mac address="`)
	hostText(t, "ip", "link", "add", "name", bridge, "address", mac[:len("02:00:00:00:00:00")], "type", "bridge")
	if err := b.ShutdownAll(t.Context(), nil, ShutdownOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := net.InterfaceByName(bridge); err == nil {
		t.Errorf("the bridge is left:\n%s", b.said)
		hostText(t, "ip", "link", "delete", bridge)
	}
}
