package lifecycle

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"meros/internal/family"
	"meros/internal/image"
	"meros/internal/virt/virttest"
)

func TestSnapshots(t *testing.T) {
	b := newBench(t, testURI, map[string]string{"libvirt/box.xml": virttest.Domain})
	f, err := family.Load(b.Paths, b.family)
	if err != nil {
		t.Fatal(err)
	}
	target := f.Targets[0]
	disk := b.Paths.Image(target.FullID())
	act := func(a image.SnapshotAct, name string) error { return b.Snapshot(t.Context(), target, a, name) }
	if err := act(image.TakeSnapshot, "clean"); err == nil || !strings.Contains(err.Error(), "has no image") {
		t.Errorf("without an image: %v", err)
	}
	if err := os.MkdirAll(b.Paths.Images(), 0o755); err != nil {
		t.Fatal(err)
	}
	qemuImg(t, "create", "-q", "-f", "qcow2", disk, "1M")
	write := func(pattern string) { qemuIO(t, disk, "write -P "+pattern+" 0 64k") }
	write("1")
	for _, name := range []string{"clean", "later"} {
		if err := act(image.TakeSnapshot, name); err != nil {
			t.Fatal(err)
		}
		write("2")
	}
	if err := act(image.TakeSnapshot, "clean"); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a name that is taken: %v", err)
	}
	if err := act(image.RestoreSnapshot, "nonesuch"); !errors.Is(err, image.ErrNoSnapshot) {
		t.Errorf("a name that is not there: %v", err)
	}
	if err := act(image.RestoreSnapshot, "clean"); err != nil {
		t.Fatal(err)
	}
	if said := qemuIO(t, disk, "read -P 1 0 64k"); strings.Contains(said, "failed") {
		t.Errorf("the disk is not what it was:\n%s", said)
	}
	if err := act(image.RemoveSnapshot, "clean"); err != nil {
		t.Fatal(err)
	}
	left, err := b.Snapshots(t.Context(), target)
	if err != nil || len(left) != 1 || left[0].Name != "later" || left[0].Taken.IsZero() {
		t.Errorf("Snapshots = %v, %v, want later", left, err)
	}
	lockAsQEMU(t, disk)
	if err := act(image.RestoreSnapshot, "later"); err == nil || !strings.Contains(err.Error(), "in use by a running guest") {
		t.Errorf("of a guest that runs: %v", err)
	}
}

// lockAsQEMU does to an image what a QEMU that runs on it does.
func lockAsQEMU(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	lock := unix.Flock_t{Type: unix.F_RDLCK, Start: 101, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		t.Fatal(err)
	}
}
