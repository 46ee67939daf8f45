package virt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"meros/internal/hint"
)

// dialTest connects to libvirt's test driver, which keeps domains and networks in
// memory as long as somebody is connected.
func dialTest(t *testing.T) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), "test:///default")
	if err != nil {
		t.Skipf("no libvirtd runs: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// unique is a name that no test running beside this one has.
func unique(t *testing.T) string {
	return fmt.Sprintf("t%d_%s", os.Getpid(), strings.ToLower(strings.ReplaceAll(t.Name(), "/", "_")))
}

func TestDomainsComeAndGo(t *testing.T) {
	c := dialTest(t)
	owner := Owner{Family: unique(t), Target: "a", Root: "/srv"}
	doc, err := DomainDocument([]byte(`<domain type="test"><memory unit="MiB">32</memory><os><type>hvm</type></os>
		<devices><interface type="network"><source network="default"/></interface></devices></domain>`),
		Guest{FullID: owner.Family + "-a", Owner: owner})
	if err != nil {
		t.Fatal(err)
	}
	if doc.QEMU || len(doc.Warnings) > 0 {
		t.Errorf("a document of another driver was adapted: %+v", doc)
	}
	if err := c.CreateDomain(t.Context(), doc.XML); err != nil {
		t.Fatal(err)
	}
	d := findDomain(t, c, doc.Name)
	if d == nil || d.State != StateRunning || d.Owner != owner || !slices.Equal(d.Joins(), []string{"default"}) {
		t.Fatalf("Domains has %+v, want it running and %+v's", d, owner)
	}
	if err := c.CreateDomain(t.Context(), doc.XML); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("CreateDomain of a second = %v, want libvirt's words", err)
	}
	if err := c.ShutdownDomain(t.Context(), *d); err != nil {
		t.Error(err)
	}
	if d := findDomain(t, c, doc.Name); d != nil {
		t.Errorf("after ShutdownDomain there is %+v", d)
	}
	for _, end := range []func(context.Context, Domain) error{c.ShutdownDomain, c.DestroyDomain} {
		if err := end(t.Context(), *d); err != nil {
			t.Errorf("of a domain that is gone: %v", err)
		}
	}
}

func findDomain(t *testing.T, c *Conn, name string) *Domain {
	t.Helper()
	all, err := c.Domains(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if at := slices.IndexFunc(all, func(d Domain) bool { return d.Name == name }); at >= 0 {
		return &all[at]
	}
	return nil
}

func TestNetworksComeAndGo(t *testing.T) {
	c := dialTest(t)
	owner := Owner{Family: unique(t), Root: "/srv"}
	doc, err := NetworkDocument([]byte(`<network><ip address="10.250.1.1" prefix="24"/></network>`), owner.Family, owner)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CreateNetwork(t.Context(), doc.XML); err != nil {
		t.Fatal(err)
	}
	all, err := c.Networks(t.Context())
	at := slices.IndexFunc(all, func(n Network) bool { return n.Name == owner.Family })
	if err != nil || at < 0 || !all[at].Active {
		t.Fatalf("Networks = %+v, %v, want %s up", all, err, owner.Family)
	}
	if err := c.DestroyNetwork(t.Context(), all[at]); err != nil {
		t.Error(err)
	}
	if err := c.DestroyNetwork(t.Context(), all[at]); err != nil {
		t.Errorf("DestroyNetwork of one that is gone = %v", err)
	}
}

func TestCapabilities(t *testing.T) {
	if caps, err := dialTest(t).Capabilities(t.Context(), Accel{}); err != nil || caps.Arch == "" || caps.CPUModes != nil {
		t.Errorf("test driver: Capabilities = %+v, %v", caps, err)
	}
	c, err := Dial(t.Context(), "")
	if err != nil {
		t.Skip(err)
	}
	defer c.Close()
	caps, err := c.Capabilities(t.Context(), Accel{})
	if err != nil || len(caps.Machines[caps.Arch]) == 0 || caps.CPUModes["host-passthrough"] {
		t.Errorf("Capabilities = %+v, %v, want machines, and no host-passthrough with TCG", caps, err)
	}
}

func TestDialUnreachable(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	l, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	for _, c := range []struct{ uri, want string }{
		{"test:///default?socket=" + dir + "/none", "no such socket, libvirt is not running"},
		{"qemu:///system?socket=" + dead, "nobody listens there"},
		{"qemu+ssh://host/system", "is not a libvirt of this host"},
		{"qemu:///session", "is not a libvirt of this host"},
	} {
		_, err := Dial(t.Context(), c.uri)
		if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), c.want) || len(hint.Of(err)) == 0 {
			t.Errorf("Dial(%s) = %v, hints %q, want %q", c.uri, err, hint.Of(err), c.want)
		}
	}
}

// A daemon that takes connections and never answers must not hold a call beyond
// its context.
func TestCallsEndWithContext(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err = Dial(ctx, "qemu:///system?socket="+socket)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 2*time.Second {
		t.Errorf("Dial = %v after %v", err, time.Since(start))
	}
	// Nor without an end of the context.
	c, err := newConn("qemu:///system?socket=" + socket)
	if err != nil {
		t.Fatal(err)
	}
	c.patient = 100 * time.Millisecond
	if _, err := c.Domains(t.Context()); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "did not answer") || len(hint.Of(err)) == 0 {
		t.Errorf("Domains of a daemon that hangs = %v", err)
	}
}

// A call whose context ends takes the connection with it; the next has a new one.
func TestConnComesBack(t *testing.T) {
	c := dialTest(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Domains(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Domains with an ended context = %v", err)
	}
	_ = c.raw.Close()
	_, _ = c.Domains(t.Context()) // may still meet the broken connection
	if _, err := c.Domains(t.Context()); err != nil {
		t.Errorf("Domains on a new connection = %v", err)
	}
}

func TestURI(t *testing.T) {
	for _, c := range []struct{ meros, libvirt, want string }{
		{"", "", "qemu:///system"},
		{"", "test:///default", "test:///default"},
		{"", "qemu:///session", "qemu:///system"},
		{"test:///x", "qemu:///system", "test:///x"},
	} {
		env := map[string]string{"MEROS_LIBVIRT_URI": c.meros, "LIBVIRT_DEFAULT_URI": c.libvirt}
		if got := URI(func(name string) string { return env[name] }); got != c.want {
			t.Errorf("URI(%q, %q) = %s, want %s", c.meros, c.libvirt, got, c.want)
		}
	}
}
