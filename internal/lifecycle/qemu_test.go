package lifecycle

import (
	"context"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"meros/internal/virt"
)

const qemuURI = "qemu:///system"

// tiny is a family that QEMU runs without any disk: its firmware looks for
// something to boot for ever. The machine type and the processor are ones that
// no QEMU emulates.
func tiny() map[string]string {
	return map[string]string{
		"libvirt/box.xml": `<domain type="kvm"><memory unit="MiB">32</memory><os><type arch="x86_64" machine="pc-q35-0.99">hvm</type></os>
			<cpu mode="host-passthrough"/><devices><emulator>/usr/bin/no-such-qemu</emulator>
			<interface type="network"><source network="$NETWORK_FULL_ID"/></interface></devices></domain>`,
		"libvirt/lan.xml": `<network><bridge name="mtb$PID" stp="off"/><dns enable="no"/><ip address="10.253.$OCTET.1" prefix="24"/></network>`,
	}
}

func newQEMUBench(t *testing.T) (b *bench, bridge string) {
	t.Helper()
	return newQEMUBenchOf(t, tiny())
}

func newQEMUBenchOf(t *testing.T, files map[string]string) (b *bench, bridge string) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a guest under QEMU")
	}
	pid := os.Getpid()
	bridge = "mtb" + strconv.Itoa(pid)
	for name, content := range files {
		files[name] = strings.NewReplacer("$PID", strconv.Itoa(pid), "$OCTET", strconv.Itoa(pid%250)).Replace(content)
	}
	b = newBench(t, qemuURI, files)
	// libvirt's qemu user has to get to the console log's folder, as in use.
	for at := b.Paths.Root; at != os.TempDir() && len(at) > 1; at = at[:strings.LastIndexByte(at, '/')] {
		if err := os.Chmod(at, 0o755); err != nil {
			break
		}
	}
	return b, bridge
}

func TestQEMUComesAndGoes(t *testing.T) {
	b, bridge := newQEMUBench(t)
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatalf("%v\n%s", err, b.said)
	}
	b.wantRuns("-box", "_lan")
	for _, want := range []string{
		"the recipe asks for KVM", "no machine type pc-q35-0.99: q35 instead",
		"no processor host-passthrough: maximum instead", "no emulator at /usr/bin/no-such-qemu",
	} {
		if !strings.Contains(b.said.String(), want) {
			t.Errorf("no warning says %q:\n%s", want, b.said)
		}
	}
	if _, err := net.InterfaceByName(bridge); err != nil {
		t.Errorf("the bridge: %v", err)
	}
	if info, err := os.Stat(consoleLog(b.Paths, b.family+"-box")); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the console log: %v, %v", info, err)
	}
	// Firmware does not listen: the grace runs out, then the power is cut.
	start := time.Now()
	if n, err := b.Shutdown(t.Context(), ShutdownOptions{Family: b.family, Grace: time.Second}); n != 2 || err != nil {
		t.Errorf("Shutdown = %d, %v", n, err)
	}
	if took := time.Since(start); took < time.Second || took > 20*time.Second {
		t.Errorf("Shutdown took %v", took)
	}
	b.wantRuns()
	if _, err := net.InterfaceByName(bridge); err == nil {
		t.Errorf("the bridge %s is left", bridge)
	}
}

// An interrupt in the middle of a start must not leave the domain that libvirt
// was about to make.
func TestQEMUInterruptedStart(t *testing.T) {
	b, bridge := newQEMUBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dial := b.Dial
	b.Dial = func(ctx context.Context) (virt.Daemon, error) {
		d, err := dial(ctx)
		return interrupting{d, cancel}, err
	}
	err := b.init(ctx, InitOptions{})
	b.Dial = dial
	if err == nil || ctx.Err() == nil {
		t.Errorf("Init = %v", err)
	}
	time.Sleep(time.Second) // what libvirt still does would show by now
	b.wantRuns()
	if _, err := net.InterfaceByName(bridge); err == nil {
		t.Errorf("the bridge %s is left", bridge)
	}
}

// interrupting ends a context while a domain starts.
type interrupting struct {
	virt.Daemon
	interrupt func()
}

func (d interrupting) CreateDomain(ctx context.Context, xml string) error {
	time.AfterFunc(50*time.Millisecond, d.interrupt)
	return d.Daemon.CreateDomain(ctx, xml)
}

func TestQEMUStrict(t *testing.T) {
	b, _ := newQEMUBench(t)
	b.wantError(b.init(t.Context(), InitOptions{Strict: true}), "cannot run the recipe as it is", "no machine type pc-q35-0.99", "--strict")
	b.wantRuns()
}

func TestQEMUWantedResources(t *testing.T) {
	b := newDiskBench(t)
	if err := b.init(t.Context(), InitOptions{Want: virt.Resources{MemoryMiB: 48, CPUs: 2}}); err != nil {
		t.Fatalf("%v\n%s", err, b.said)
	}
	info, err := b.Info(t.Context(), b.family)
	if got := info.Families[0].Targets[0]; err != nil || got.MemoryMiB != 48 || got.CPUs != 2 || got.Started == nil || got.Stale {
		t.Errorf("Info = %+v, %v", got, err)
	}
}
