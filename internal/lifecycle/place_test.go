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
	"meros/internal/rootfs"
	"meros/internal/store"
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

// A package's kernel that needs no initrd has none, nor one of the kernel before.
func TestPlaceOfAPackagedKernel(t *testing.T) {
	for _, initrd := range []bool{true, false} {
		w := packed(t)
		id := w.t.FullID()
		w.t.Kernel, w.t.Prebuilt = family.KernelPrebuilt, family.Prebuilt{URL: "http://a/k.deb", SHA256: "1"}
		if !w.t.KernelDeb() {
			t.Fatal("a target with a .deb has none")
		}
		p, err := w.openStore(t.Context()).New("key")
		if err != nil {
			t.Fatal(err)
		}
		files := map[string]string{rootfs.KernelFile: "kernel", rootfs.VersionFile: "6.1-x\n"}
		if initrd {
			files[rootfs.InitrdFile] = "initrd"
		}
		for name, content := range files {
			err = errors.Join(err, os.WriteFile(filepath.Join(p.Out(), name), []byte(content), 0o644))
		}
		l, commitErr := p.Commit()
		if err := errors.Join(err, commitErr, os.WriteFile(w.Paths.Initrd(id), []byte("older"), 0o644)); err != nil {
			t.Fatal(err)
		}
		if err := w.place([]store.Layer{l}); err != nil {
			t.Fatal(err)
		}
		record, err := ReadImageRecord(w.Paths, id)
		if err != nil || record.KernelVersion != "6.1-x" || record.KernelOrigin != "http://a/k.deb (sha256 1), unpacked" || record.NoInitrd == initrd {
			t.Errorf("record = %+v, %v", record, err)
		}
		if exists(w.Paths.Initrd(id)) != initrd || !w.upToDate() {
			t.Errorf("with an initrd %v: there is one: %v, up to date: %v", initrd, exists(w.Paths.Initrd(id)), w.upToDate())
		}
		if err := os.Remove(w.Paths.Kernel(id)); err != nil || w.upToDate() {
			t.Errorf("up to date without its kernel, %v", err)
		}
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
