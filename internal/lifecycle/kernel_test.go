package lifecycle

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/family"
	"meros/internal/layout"
	"meros/internal/ui"
)

func TestSetKernel(t *testing.T) {
	targets := []*family.Target{{Family: "mos_a", Name: "b", BuildFile: "b.xml", Rootfs: true, Kernel: family.KernelDistro}}
	got, err := SetKernel(targets, "source")
	if err != nil || got[0].Kernel != family.KernelSource || targets[0].Kernel != family.KernelDistro {
		t.Errorf("SetKernel = %+v, %v; the recipe's own says %s", got[0], err, targets[0].Kernel)
	}
	if _, err := SetKernel(targets, "yes"); err == nil || !strings.Contains(err.Error(), "source, distro, prebuilt or no") {
		t.Errorf("SetKernel(yes) = %v", err)
	}
	targets[0].Rootfs = false
	if _, err := SetKernel(targets, "distro"); err == nil || !strings.Contains(err.Error(), "mos_a-b") {
		t.Errorf("SetKernel(distro) without a rootfs = %v", err)
	}
	// An image that is brought is nobody's to build.
	targets[0].BuildFile, targets[0].Kernel = "", family.KernelNone
	if got, err := SetKernel(targets, "distro"); err != nil || got[0].Kernel != family.KernelNone {
		t.Errorf("SetKernel(distro) without a build file = %+v, %v", got, err)
	}
}

func TestKernelAloneIsRenewed(t *testing.T) {
	var said bytes.Buffer
	b := Builder{Streams: &ui.Streams{Err: &said}, Paths: layout.Paths{Root: t.TempDir()}}
	target := &family.Target{Family: "mos_a", Name: "b", Rootfs: true, Kernel: family.KernelSource}
	id := target.FullID()
	built := filepath.Join(b.Paths.Root, "bzImage")
	if err := os.WriteFile(built, []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{b.Paths.Kernel(id), b.Paths.Initrd(id)} {
		if err := b.Paths.WriteFile(file, []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeRecord(b.Paths, id, ImageRecord{Key: "k", Kernel: family.KernelSource, KernelVersion: "1", KernelSum: "old"}); err != nil {
		t.Fatal(err)
	}
	b.kernels = map[string]ownKernel{id: {file: built, version: "2", origin: "built from x", sum: "new"}}
	w := &work{Builder: b, t: target}
	for _, want := range []string{"mos_a-b: the kernel is now 2", "mos_a-b is up to date"} {
		said.Reset()
		if err := w.renewKernel(); err != nil || !strings.Contains(said.String(), want) {
			t.Errorf("renewKernel = %v, says %q, want %q", err, &said, want)
		}
	}
	record, err := ReadImageRecord(b.Paths, id)
	if err != nil || record.Key != "k" || record.KernelVersion != "2" || record.KernelOrigin != "built from x" {
		t.Errorf("record = %+v, %v", record, err)
	}
	if content, err := os.ReadFile(b.Paths.Kernel(id)); err != nil || string(content) != "new" {
		t.Errorf("kernel = %q, %v", content, err)
	}
	if _, err := os.Stat(b.Paths.Initrd(id)); !os.IsNotExist(err) {
		t.Errorf("an initrd of another kernel was left: %v", err)
	}
	// meros build --kernel no: the image stays as well.
	target.Kernel = family.KernelNone
	w.kernels = nil
	for _, want := range []string{"mos_a-b: it has no kernel beside it now", "mos_a-b is up to date"} {
		said.Reset()
		if err := w.renewKernel(); err != nil || !strings.Contains(said.String(), want) {
			t.Errorf("renewKernel = %v, says %q, want %q", err, &said, want)
		}
	}
	record, err = ReadImageRecord(b.Paths, id)
	if err != nil || record.Key != "k" || record.Kernel != family.KernelNone || record.KernelVersion != "" || record.KernelSum != "" {
		t.Errorf("record = %+v, %v", record, err)
	}
	if _, err := os.Stat(b.Paths.Kernel(id)); !os.IsNotExist(err) {
		t.Errorf("the kernel of before was left: %v", err)
	}
}
