package lifecycle

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/layout"
)

// packed is a target whose new image only has to be put in place.
func packed(t *testing.T) *work {
	t.Helper()
	w := planned(t, Builder{Paths: layout.Paths{Root: t.TempDir()}}, func(*family.Target) {})
	image := w.Paths.Image(w.t.FullID())
	if err := errors.Join(os.MkdirAll(filepath.Dir(image), 0o755), os.WriteFile(image+partial, []byte("new"), 0o644)); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestPlace(t *testing.T) {
	w := packed(t)
	if err := w.place(nil); err != nil {
		t.Fatal(err)
	}
	if !w.upToDate() || exists(w.Paths.Placing(w.t.FullID())) {
		t.Error("the image is not up to date once it is in place")
	}
}

// What a build leaves that fails, or dies, between its renames is known as such:
// by the next build, and by who would start it.
func TestPlaceThatFails(t *testing.T) {
	w := packed(t)
	id := w.t.FullID()
	err := errors.Join(
		os.WriteFile(w.Paths.Image(id), []byte("good"), 0o644), writeRecord(w.Paths, id, ImageRecord{Key: string(w.key)}),
		os.MkdirAll(filepath.Join(w.Paths.Kernel(id), "in the way"), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.place(nil); err == nil {
		t.Fatal("a folder was removed as a kernel that is not wanted")
	}
	if w.upToDate() {
		t.Error("image and kernel are up to date although they may not belong together")
	}
}

// A guest that was started while its next image was packed keeps the old one.
func TestPlaceWhileTheImageIsUsed(t *testing.T) {
	w := packed(t)
	f, err := os.Create(w.Paths.Image(w.t.FullID()))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// As QEMU 7.2 does for a disk that it may write.
	lock := unix.Flock_t{Type: unix.F_RDLCK, Start: 100, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		t.Fatal(err)
	}
	err = w.place(nil)
	if err == nil || !strings.Contains(err.Error(), "in use by a running guest") || len(hint.Of(err)) != 1 {
		t.Errorf("place = %v, hints %q", err, hint.Of(err))
	}
	if content, _ := os.ReadFile(f.Name()); len(content) != 0 || exists(w.Paths.Placing(w.t.FullID())) {
		t.Errorf("the image is now %q", content)
	}
}

func TestInitOfWhatWasNotWhollyPlaced(t *testing.T) {
	b := newBench(t, testURI, pair())
	mark := b.Paths.Placing(b.family + "-a")
	if err := b.Paths.WriteFile(mark, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	b.wantError(b.init(t.Context(), InitOptions{}), "-a: a build ended while it put image and kernel in place", "meros build "+b.family+" a")
	b.wantRuns()
}
