package lifecycle

import (
	"context"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"meros/internal/virt"
)

// recording notes in which order domains start and stop.
type recording struct {
	virt.Daemon
	mu    *sync.Mutex
	calls *[]string
}

var nameElement = regexp.MustCompile(`<name>[^<]*-([a-z]+)</name>`)

func (r recording) note(act, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*r.calls = append(*r.calls, act+" "+name)
}

func (r recording) CreateDomain(ctx context.Context, xml string) error {
	r.note("start", nameElement.FindStringSubmatch(xml)[1])
	return r.Daemon.CreateDomain(ctx, xml)
}

func (r recording) ShutdownDomain(ctx context.Context, d virt.Domain) error {
	r.note("stop", d.Owner.Target)
	return r.Daemon.ShutdownDomain(ctx, d)
}

// order of a family: gate, then its two guests, then what comes last.
func ordered() map[string]string {
	files := map[string]string{"libvirt/net.xml": testNetwork}
	for name, after := range map[string]string{"gate": "", "one": ` after="gate"`, "two": ` after="gate"`, "last": ` after="one two"`} {
		files["libvirt/"+name+".xml"] = testDomain
		files["build/"+name+".xml"] = `<target><build id="` + name + `" kernel="no"` + after + `/></target>`
	}
	return files
}

func TestStartsInOrderAndStopsInReverse(t *testing.T) {
	b := newBench(t, testURI, ordered())
	var calls []string
	b.Dial = func(ctx context.Context) (virt.Daemon, error) {
		d, err := virt.Dial(ctx, testURI)
		return recording{d, &sync.Mutex{}, &calls}, err
	}
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatal(err)
	}
	// The recipe is not needed for the order of the stops.
	if err := os.RemoveAll(b.Paths.Family(b.family)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Shutdown(t.Context(), ShutdownOptions{Family: b.family, Grace: time.Minute}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(calls[1:3])
	slices.Sort(calls[5:7])
	want := "start gate, start one, start two, start last, stop last, stop one, stop two, stop gate"
	if got := strings.Join(calls, ", "); got != want {
		t.Errorf("calls: %s\nwant:  %s", got, want)
	}
}

// A dozen guests at once, and gone at once.
func TestManyAtOnce(t *testing.T) {
	files := map[string]string{"libvirt/net.xml": testNetwork}
	for i := range 20 {
		files["libvirt/g"+string(rune('a'+i))+".xml"] = testDomain
	}
	b := newBench(t, testURI, files)
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := len(b.runs()); n != 21 {
		t.Errorf("%d things run, want 20 guests and a network", n)
	}
	if n, err := b.Shutdown(t.Context(), ShutdownOptions{Family: b.family, Grace: time.Minute}); n != 21 || err != nil {
		t.Errorf("Shutdown = %d, %v", n, err)
	}
	b.wantRuns()
}

func TestPausedRunsOn(t *testing.T) {
	b := newBench(t, testURI, pair())
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatal(err)
	}
	d, dom, err := b.Running(t.Context(), b.family+"-a")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.(*virt.Conn).Suspend(t.Context(), dom); err != nil {
		t.Fatal(err)
	}
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, dom, err = b.Running(t.Context(), b.family+"-a"); err != nil || dom.State != virt.StateRunning {
		t.Errorf("after a second init: %s, %v", dom.State, err)
	}
}

func TestStaleIsSaid(t *testing.T) {
	b := newBench(t, testURI, pair())
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatal(err)
	}
	change := func(file, old, now string) {
		path := b.Paths.Family(b.family) + "/libvirt/" + file
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.Replace(string(content), old, now, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stale := func() bool {
		info, err := b.Info(t.Context(), b.family)
		if err != nil {
			t.Fatal(err)
		}
		return info.Families[0].Targets[0].Stale
	}
	if stale() {
		t.Error("stale at once")
	}
	change("a.xml", ">16<", ">17<")
	if !stale() {
		t.Error("not stale after its document changed")
	}
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Error(err)
	}
	if !strings.Contains(b.said.String(), b.family+"-a runs as the recipe was when it was started") {
		t.Errorf("init said\n%s", b.said)
	}
	change("net.xml", "<bridge", `<mtu size="1400"/><bridge`)
	b.wantError(b.init(t.Context(), InitOptions{}), "network "+b.family+"_net runs with other settings than the recipe's", "meros shutdown "+b.family)
}
