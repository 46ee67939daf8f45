package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/layout"
	"meros/internal/proc"
	"meros/internal/session"
	"meros/internal/ui"
	"meros/internal/virt"
)

// bench is a root with one family, and a libvirt to run it on.
type bench struct {
	Guests
	t      *testing.T
	family string
	daemon virt.Daemon // the test's own connection
	said   *talk
}

// talk is a stream that a test reads while others write.
type talk struct {
	mu sync.Mutex
	b  strings.Builder
}

func (w *talk) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *talk) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// benches counts them, for names that are short enough to be a bridge's.
var benches atomic.Int32

// newBench makes a family of these files. @F@ in them is its name, which no
// other test has.
func newBench(t *testing.T, uri string, files map[string]string) *bench {
	t.Helper()
	dial := func(ctx context.Context) (virt.Daemon, error) { return virt.Dial(ctx, uri) }
	d, err := dial(t.Context())
	if err != nil {
		t.Skipf("no libvirtd runs: %v", err)
	}
	root := t.TempDir()
	b := &bench{t: t, daemon: d, said: &talk{}, family: fmt.Sprintf("t%x_%x", os.Getpid(), benches.Add(1))}
	b.Guests = Guests{
		Streams: &ui.Streams{Out: b.said, Err: b.said}, Runner: proc.Host{},
		Paths: layout.Paths{Root: root}, Getenv: os.Getenv, Dial: dial,
	}
	for name, content := range files {
		path := filepath.Join(b.Paths.Family(b.family), name)
		mode := os.FileMode(0o644)
		if strings.HasPrefix(name, "hooks/") {
			mode = 0o755
		}
		if err := b.Paths.WriteFile(path, []byte(strings.ReplaceAll(content, "@F@", b.family)), mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		b.cleanUp()
		_ = d.Close()
	})
	return b
}

func (b *bench) cleanUp() {
	_, err := b.Shutdown(context.Background(), ShutdownOptions{Family: b.family, Force: true})
	if err != nil {
		b.t.Errorf("clean up: %v", err)
	}
}

func (b *bench) init(ctx context.Context, o InitOptions) error {
	b.t.Helper()
	f, err := family.Load(b.Paths, b.family)
	if err != nil {
		b.t.Fatal(err)
	}
	o.Accel = virt.AccelTCG
	return b.Init(ctx, f, f.Targets, o)
}

// runs returns what libvirt has whose name begins with the family's.
func (b *bench) runs() []string {
	b.t.Helper()
	domains, err := b.daemon.Domains(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	networks, err := b.daemon.Networks(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	var names []string
	for _, d := range domains {
		names = append(names, d.Name)
	}
	for _, n := range networks {
		names = append(names, n.Name)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, b.family) })
	for i := range names {
		names[i] = strings.TrimPrefix(names[i], b.family)
	}
	slices.Sort(names)
	return names
}

func (b *bench) wantRuns(want ...string) {
	b.t.Helper()
	if got := b.runs(); !slices.Equal(got, want) {
		b.t.Errorf("there runs %q, want %q\n%s", got, want, b.said)
	}
}

func (b *bench) wantError(err error, words ...string) {
	b.t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error()+strings.Join(hint.Of(err), "\n"), w) {
			b.t.Errorf("error %v, want it to say %q", err, w)
		}
	}
}

const (
	testDomain = `<domain type="test"><memory unit="MiB">16</memory><os><type>hvm</type></os>
		<devices><interface type="network"><source network="$NETWORK_FULL_ID"/></interface></devices></domain>`
	testNetwork = `<network><bridge name="@F@"/></network>`
	buildFile   = `<target><build id="NAME" kernel="no" rootfs="yes" distro="debian"/><details username="user"/>
		<network network_addr="10.251.0.1" ip_addr="10.251.0.2"/></target>`
)

func pair() map[string]string {
	return map[string]string{
		"libvirt/a.xml": testDomain, "libvirt/b.xml": testDomain, "libvirt/net.xml": testNetwork,
		"build/a.xml": strings.Replace(buildFile, "NAME", "a", 1),
	}
}

const testURI = "test:///default"

func TestInitAndShutdown(t *testing.T) {
	b := newBench(t, testURI, pair())
	b.Ready = func(_ context.Context, target *family.Target, _ func(session.Stage)) error {
		if target.Name != "a" {
			t.Errorf("%s has no session, and is waited for", target.Name)
		}
		return nil
	}
	for range 2 {
		if err := b.init(t.Context(), InitOptions{Timeout: time.Minute}); err != nil {
			t.Fatal(err)
		}
		b.wantRuns("-a", "-b", "_net")
	}
	if said := b.said.String(); !strings.Contains(said, b.family+"-a is running already") || !strings.Contains(said, "_net is up already") {
		t.Errorf("the second init said %q", said)
	}
	info, err := b.Info(t.Context(), b.family)
	if err != nil || info.Families[0].Targets[0].State != virt.StateRunning || info.Families[0].Networks[0].State != "up" {
		t.Errorf("Info = %+v, %v", info, err)
	}
	// One target alone: the network is in use by the other.
	if n, err := b.Shutdown(t.Context(), ShutdownOptions{Family: b.family, Target: "a", Grace: time.Minute}); n != 1 || err != nil {
		t.Errorf("Shutdown of a = %d, %v", n, err)
	}
	b.wantRuns("-b", "_net")
	// The recipe is not needed to stop what runs.
	if err := os.RemoveAll(b.Paths.Family(b.family)); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Shutdown(t.Context(), ShutdownOptions{Grace: time.Minute}); n != 2 || err != nil {
		t.Errorf("Shutdown of all = %d, %v", n, err)
	}
	b.wantRuns()
	if n, err := b.Shutdown(t.Context(), ShutdownOptions{Grace: time.Minute}); n != 0 || err != nil {
		t.Errorf("Shutdown of nothing = %d, %v", n, err)
	}
}

func TestInitOneTarget(t *testing.T) {
	files := pair()
	files["libvirt/other.xml"] = `<network><ip address="10.252.9.1" prefix="24"/></network>`
	files["libvirt/a.xml"] = strings.ReplaceAll(testDomain, "$NETWORK_FULL_ID", "@F@_net")
	delete(files, "libvirt/b.xml")
	files["libvirt/b.xml"] = strings.ReplaceAll(testDomain, "$NETWORK_FULL_ID", "@F@_other")
	b := newBench(t, testURI, files)
	f, err := family.Load(b.Paths, b.family)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Init(t.Context(), f, f.Targets[:1], InitOptions{}); err != nil {
		t.Fatal(err)
	}
	b.wantRuns("-a", "_net")
}

func TestForeignIsNotTouched(t *testing.T) {
	for _, owner := range []virt.Owner{{}, {Family: "other", Target: "a", Root: "/other"}} {
		b := newBench(t, testURI, pair())
		doc, err := virt.DomainDocument([]byte(`<domain type="test"><memory unit="MiB">16</memory><os><type>hvm</type></os></domain>`),
			virt.Guest{FullID: b.family + "-b", Owner: owner})
		if err != nil {
			t.Fatal(err)
		}
		xml := doc.XML
		if owner == (virt.Owner{}) {
			xml = strings.ReplaceAll(xml, "urn:meros:object:1", "urn:somebody:else")
		}
		if err := b.daemon.CreateDomain(t.Context(), xml); err != nil {
			t.Fatal(err)
		}
		b.wantError(b.init(t.Context(), InitOptions{}), "-b (running) of "+owner.Describe()+": it is not touched")
		b.wantRuns("-b")
		if n, err := b.Shutdown(t.Context(), ShutdownOptions{Family: b.family, Force: true}); n != 0 || err != nil {
			t.Errorf("Shutdown = %d, %v, want it to leave the foreign domain alone", n, err)
		}
		b.wantRuns("-b")
		domains, _ := b.Active(t.Context())
		domains = slices.DeleteFunc(domains, func(d virt.Domain) bool { return d.Name != doc.Name })
		if err := b.ShutdownAll(t.Context(), domains, ShutdownOptions{Force: true}); err != nil {
			t.Error(err)
		}
		b.wantRuns()
	}
}

func TestFailureIsRolledBack(t *testing.T) {
	files := pair()
	files["libvirt/b.xml"] = `<domain type="test"><memory unit="MiB">16</memory></domain>`
	b := newBench(t, testURI, files)
	b.wantError(b.init(t.Context(), InitOptions{}), "start "+b.family+"-b:", "os")
	b.wantRuns()

	// What ran before stays.
	f, err := family.Load(b.Paths, b.family)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Init(t.Context(), f, f.Targets[:1], InitOptions{}); err != nil {
		t.Fatal(err)
	}
	b.wantError(b.init(t.Context(), InitOptions{}), "start "+b.family+"-b:")
	b.wantRuns("-a", "_net")
}

func TestBridgeTaken(t *testing.T) {
	files := pair()
	files["libvirt/net.xml"] = `<network><bridge name="lo"/></network>`
	b := newBench(t, testURI, files)
	b.wantError(b.init(t.Context(), InitOptions{}), "its bridge lo is taken by the link lo of this host")
	b.wantRuns()
}

func TestImageMissing(t *testing.T) {
	files := pair()
	disk := `<disk type="file"><source file="$TARGET_ROOTFS_IMG"/><target dev="vda"/></disk></devices>`
	files["libvirt/a.xml"] = strings.Replace(testDomain, "</devices>", disk, 1)
	files["libvirt/b.xml"] = strings.Replace(testDomain, "</devices>", disk, 1)
	b := newBench(t, testURI, files)
	err := b.init(t.Context(), InitOptions{})
	b.wantError(err, "-a: its image is missing", "-b: its image is missing", "meros build "+b.family+" a", "meros import "+b.family+"-b FILE")
	b.wantRuns()
}

func TestInterruptedWait(t *testing.T) {
	b := newBench(t, testURI, pair())
	ctx, cancel := context.WithCancel(t.Context())
	b.Ready = func(ctx context.Context, _ *family.Target, _ func(session.Stage)) error {
		cancel()
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if err := b.init(ctx, InitOptions{Timeout: time.Minute}); !errors.Is(err, context.Canceled) {
		t.Errorf("Init = %v, want context.Canceled", err)
	}
	b.wantRuns()
}

func TestTimeOut(t *testing.T) {
	b := newBench(t, testURI, pair())
	log := consoleLog(b.Paths, b.family+"-a")
	b.Ready = func(context.Context, *family.Target, func(session.Stage)) error {
		if err := os.WriteFile(log, []byte("first\r\n\r\n\x1b[31mlast\r\n"), 0o644); err != nil {
			t.Error(err)
		}
		return errors.New("port closed")
	}
	err := b.init(t.Context(), InitOptions{Timeout: 300 * time.Millisecond})
	b.wantError(err, `-a: no session within 300ms: it got as far as "domain running", not to "kernel up": port closed`, "  first\n  \\x1b[31mlast", log, "--timeout")
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		t.Errorf("the error is one of a context: %v", err)
	}
	b.wantRuns()
}

func TestGuestDiesWhileWaitedFor(t *testing.T) {
	b := newBench(t, testURI, pair())
	b.Ready = func(ctx context.Context, target *family.Target, _ func(session.Stage)) error {
		domains, err := b.daemon.Domains(ctx)
		if err != nil {
			return err
		}
		for _, d := range domains {
			if d.Name == target.FullID() {
				_ = b.daemon.DestroyDomain(ctx, d)
			}
		}
		return errors.New("not yet")
	}
	b.wantError(b.init(t.Context(), InitOptions{Timeout: time.Minute}), "-a powered off while it was waited for")
	b.wantRuns()
}

func TestInfoWithoutLibvirt(t *testing.T) {
	b := newBench(t, testURI, pair())
	b.Dial = func(ctx context.Context) (virt.Daemon, error) {
		return virt.Dial(ctx, "test:///default?socket="+t.TempDir()+"/none")
	}
	info, err := b.Info(t.Context(), "")
	if err != nil || !strings.Contains(info.Libvirt, "not reachable") || len(info.Families[0].Targets) == 0 || info.Families[0].Targets[0].State != virt.StateUnknown {
		t.Errorf("Info = %+v, %v", info, err)
	}
	if _, err := b.Info(t.Context(), "no_such"); !errors.Is(err, family.ErrNotFound) {
		t.Errorf("Info of no family = %v", err)
	}
	if err := b.init(t.Context(), InitOptions{}); !errors.Is(err, virt.ErrUnreachable) {
		t.Errorf("Init = %v, want ErrUnreachable", err)
	}
	b.Dial = func(ctx context.Context) (virt.Daemon, error) { return virt.Dial(ctx, testURI) }
}

func TestVerdict(t *testing.T) {
	if err := Verdict([]Check{{Name: "a", OK: true, Needed: true}, {Name: "b"}}); err != nil {
		t.Errorf("Verdict = %v", err)
	}
	err := Verdict([]Check{{Name: "a", Needed: true}, {Name: "b", Needed: true}})
	if !errors.Is(err, ErrHostNotReady) || !strings.HasSuffix(err.Error(), ": a, b") {
		t.Errorf("Verdict = %v", err)
	}
	for version, want := range map[string]bool{"1.47.0": true, "1.46.6": false, "2.0": true, "unknown": false, "1.47": true} {
		if atLeast(version, 1, 47) != want {
			t.Errorf("atLeast(%s) = %v", version, !want)
		}
	}
}
