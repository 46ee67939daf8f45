package lifecycle

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"meros/internal/virt"
	"meros/internal/virt/virttest"
)

func hashOf(t *testing.T, file string) [32]byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(content)
}

func ownerOf(t *testing.T, file string) uint32 {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}

func (b *bench) wantNoOverlay() {
	b.t.Helper()
	if left, err := b.overlays(nil); err != nil || len(left) > 0 {
		b.t.Errorf("overlays left: %q, %v", left, err)
	}
}

// writeSector has the guest write a sector of its disk.
func (b *bench) writeSector() {
	b.t.Helper()
	keys, screen, ended := b.console(false)
	for deadline := time.Now().Add(time.Minute); !strings.Contains(screen.String(), "W"); time.Sleep(200 * time.Millisecond) {
		if press(b.t, keys, "w"); time.Now().After(deadline) {
			b.t.Fatalf("the guest did not write: %q", screen)
		}
	}
	press(b.t, keys, "\x1d")
	if err := ends(b.t, ended); err != nil {
		b.t.Fatal(err)
	}
}

func TestQEMUDisposable(t *testing.T) {
	b := newDiskBench(t)
	id := b.family + "-box"
	before, owner := hashOf(t, b.Paths.Image(id)), ownerOf(t, b.Paths.Image(id))
	if err := os.Chmod(b.Paths.Image(id), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.init(t.Context(), InitOptions{Disposable: true}); err != nil {
		t.Fatalf("%v\n%s", err, b.said)
	}
	if now := ownerOf(t, b.Paths.Image(id)); now != owner {
		t.Errorf("the image, which is only read, belongs to user %d now, did to %d", now, owner)
	}
	d, dom, err := b.Running(t.Context(), id)
	if err != nil || !dom.Mark.Disposable {
		t.Fatalf("Running = %+v, %v", dom.Mark, err)
	}
	defer d.Close()
	b.writeSector()
	if info, err := os.Stat(b.Paths.Overlay(id)); err != nil || info.Size() < 256<<10 {
		t.Errorf("the overlay holds nothing: %v, %v", info, err)
	}
	if err := b.init(t.Context(), InitOptions{Disposable: true}); err != nil {
		t.Errorf("a second init = %v", err)
	}
	b.wantError(b.init(t.Context(), InitOptions{Disposable: true, Fresh: true}), id+" runs already, and a fresh one", "meros shutdown "+id)

	// A second one on the same image, in another family.
	other := newBench(t, qemuURI, map[string]string{"libvirt/box.xml": virttest.Domain})
	other.openUp()
	if err := errors.Join(other.Paths.MkdirAll(other.Paths.Images(), 0o755), os.Link(b.Paths.Image(id), other.Paths.Image(other.family+"-box"))); err != nil {
		t.Fatal(err)
	}
	if err := other.init(t.Context(), InitOptions{Disposable: true}); err != nil {
		t.Errorf("on an image that another disposable guest reads: %v", err)
	}
	other.cleanUp()
	other.wantNoOverlay()

	// A crash: qemu is gone, and so is whoever started it.
	if err := d.DestroyDomain(t.Context(), dom); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.Paths.Overlay(id)); err != nil {
		t.Errorf("before the shutdown: %v", err)
	}
	if _, err := b.Shutdown(t.Context(), ShutdownOptions{}); err != nil {
		t.Error(err)
	}
	b.wantNoOverlay()
	if info, err := os.Stat(b.Paths.Image(id)); err != nil || info.Mode().Perm() != 0o600 || ownerOf(t, b.Paths.Image(id)) != owner {
		t.Errorf("the image is not its owner's alone any more: %v, %v", info, err)
	}
	if hashOf(t, b.Paths.Image(id)) != before {
		t.Error("the image has changed")
	}

	// What an ordinary guest writes stays, and is not run as a disposable one.
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatal(err)
	}
	b.wantError(b.init(t.Context(), InitOptions{Disposable: true}), id+" runs already", "meros shutdown "+id)
	b.writeSector()
	b.cleanUp()
	if hashOf(t, b.Paths.Image(id)) == before {
		t.Error("the image has not changed: the test writes nothing")
	}
}

func TestDisposableFailureIsRolledBack(t *testing.T) {
	b := newDiskBench(t)
	b.Dial = func(ctx context.Context) (virt.Daemon, error) {
		d, err := virt.Dial(ctx, qemuURI)
		return failing{d}, err
	}
	b.wantError(b.init(t.Context(), InitOptions{Disposable: true}), "no memory")
	b.wantNoOverlay()
	b.wantRuns()
	if _, err := os.Stat(b.Paths.Image(b.family + "-box")); errors.Is(err, fs.ErrNotExist) {
		t.Error("the image is gone")
	}
}

// failing starts no domain.
type failing struct{ virt.Daemon }

func (failing) CreateDomain(context.Context, string) error { return errors.New("no memory") }
