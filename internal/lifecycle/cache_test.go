package lifecycle

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"meros/internal/layout"
	"meros/internal/rootfs"
	"meros/internal/store"
)

func TestCacheCountsKernelsAndPrunesOldDownloads(t *testing.T) {
	b := Builder{Paths: layout.Paths{Root: t.TempDir()}}
	old := time.Now().Add(-unused - time.Hour)
	for name, used := range map[string]time.Time{
		filepath.Join(b.Paths.Downloads(), "new.deb"):        time.Now(),
		filepath.Join(b.Paths.Downloads(), "old.deb"):        old,
		filepath.Join(b.Paths.KernelBuild(), "src/x/kernel"): old,
		filepath.Join(b.Paths.CompilerCache(), "0/result"):   old,
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, bytes.Repeat([]byte("x"), 1<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, used, old); err != nil {
			t.Fatal(err)
		}
	}
	u, err := b.CacheUsage(t.Context())
	if err != nil || u.Kernels < 2<<20 || u.Downloads != 2<<20 || u.Stages.Layers != 0 {
		t.Errorf("CacheUsage = %+v, %v, want the kernels' 2 MiB counted", u, err)
	}
	if p, err := b.Prune(t.Context(), nil, false); p.Downloads != 1 || err != nil {
		t.Errorf("Prune = %+v, %v, want the old download removed", p, err)
	}
	if !exists(filepath.Join(b.Paths.Downloads(), "new.deb")) {
		t.Error("a download that was used today is gone")
	}
	if p, err := b.Prune(t.Context(), nil, true); p.Downloads != 1 || err != nil || exists(b.Paths.Downloads()) {
		t.Errorf("Prune of all = %+v, %v", p, err)
	}
	if !exists(filepath.Join(b.Paths.KernelBuild(), "src/x/kernel")) {
		t.Error("a kernel's source is gone")
	}
}

// Builds of two families may refresh bases at the same time.
func TestNoStampIsLost(t *testing.T) {
	paths := layout.Paths{Root: t.TempDir()}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			b := Builder{Paths: paths, making: newMaking()}
			if err := b.stamp(t.Context(), rootfs.Stamp{Base: store.Key(fmt.Sprint(i)), Time: "now"}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if known := (Builder{Paths: paths}).stamps(); len(known) != 8 {
		t.Errorf("stamps = %v, want 8", known)
	}
}
