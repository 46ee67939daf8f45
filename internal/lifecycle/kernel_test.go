package lifecycle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/family"
	"meros/internal/kernel"
	"meros/internal/layout"
	"meros/internal/proc"
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

// kernelBench is a builder, a target of kernel="prebuilt" and one of "source" whose
// images the user brings, and the former's kernel.
func kernelBench(t *testing.T) (b Builder, targets []*family.Target, said *bytes.Buffer) {
	t.Helper()
	said = &bytes.Buffer{}
	b = Builder{Streams: &ui.Streams{Out: said, Err: said}, Runner: proc.Host{}, Paths: layout.Paths{Root: t.TempDir()}}
	content := make([]byte, 0x400)
	copy(content[0x202:], "HdrS")
	content[0x20e], content[0x20f] = 0x00, 0x01 // its version is at 0x100 + 0x200
	copy(content[0x300:], "6.6.1-x (me)\x00")
	image := filepath.Join(t.TempDir(), "vmlinuz")
	for file, content := range map[string][]byte{
		image: content,
		filepath.Join(b.Paths.KernelConf(), "kernel.conf"): []byte("version = 6.1\nfragments = base\ntarball = http://127.0.0.1:1/x.tar.xz\nsha256 = " + strings.Repeat("0", 64) + "\n"),
		filepath.Join(b.Paths.KernelConf(), "base.config"): []byte("CONFIG_A=y\n"),
	} {
		if err := b.Paths.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sum := sha256.Sum256(content)
	prebuilt := family.Prebuilt{URL: "file://" + image, SHA256: hex.EncodeToString(sum[:])}
	return b, []*family.Target{
		{Family: "mos_a", Name: "src", BuildFile: "s.xml", Kernel: family.KernelSource},
		{Family: "mos_a", Name: "pre", Arch: "amd64", BuildFile: "p.xml", Kernel: family.KernelPrebuilt, Prebuilt: prebuilt},
		{Family: "mos_a", Name: "two", BuildFile: "t.xml", Kernel: family.KernelSource},
	}, said
}

func TestOneKernelsFaultLeavesTheOthersBuilt(t *testing.T) {
	b, targets, said := kernelBench(t)
	err := b.Build(t.Context(), &family.Family{Name: "mos_a"}, targets, BuildOptions{Offline: true})
	if err == nil || strings.Count(err.Error(), "build the kernel") != 1 || !strings.Contains(err.Error(), "build mos_a-src: ") ||
		!strings.Contains(err.Error(), "build mos_a-two: its kernel is that of mos_a-src, which failed") {
		t.Errorf("Build = %v, want the kernel's fault for src, and two to point to it", err)
	}
	if _, err := os.Stat(b.Paths.Kernel("mos_a-pre")); err != nil {
		t.Errorf("the other target has no kernel: %v\n%s", err, said)
	}
}

func TestOfflineFetchesNoKernel(t *testing.T) {
	b, targets, _ := kernelBench(t)
	pre := *targets[1]
	pre.Prebuilt.URL = "http://127.0.0.1:1/vmlinuz"
	err := b.Build(t.Context(), &family.Family{Name: "mos_a"}, []*family.Target{&pre}, BuildOptions{Offline: true})
	if err == nil || !strings.Contains(err.Error(), "nothing is taken from the network (--offline)") {
		t.Errorf("Build = %v", err)
	}
	// What was downloaded before is taken.
	kept := filepath.Join(b.Paths.KernelBuild(), "download", pre.Prebuilt.SHA256[:16]+"-vmlinuz")
	content, readErr := os.ReadFile(strings.TrimPrefix(targets[1].Prebuilt.URL, "file://"))
	if err := errors.Join(readErr, b.Paths.WriteFile(kept, content, 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := b.Build(t.Context(), &family.Family{Name: "mos_a"}, []*family.Target{&pre}, BuildOptions{Offline: true}); err != nil {
		t.Errorf("Build with a kernel that is kept = %v", err)
	}
}

// A .deb that is unpacked in the middle of a build is got, and verified, before it.
func TestKernelDebIsGotFirst(t *testing.T) {
	b, targets, said := kernelBench(t)
	deb := *targets[1]
	deb.Rootfs, deb.Prebuilt.URL, deb.Prebuilt.SHA256 = true, "file:///nonesuch/k.deb", strings.Repeat("1", 64)
	if !deb.KernelDeb() || !deb.PackagedKernel() || deb.OwnKernel() {
		t.Fatalf("%+v is taken for no .deb", deb.Prebuilt)
	}
	err := b.Build(t.Context(), &family.Family{Name: "mos_a"}, []*family.Target{&deb}, BuildOptions{})
	if err == nil || !strings.Contains(err.Error(), "build mos_a-pre: ") || !strings.Contains(err.Error(), "/nonesuch/k.deb: no such file") || strings.Contains(said.String(), "bootstrapping") {
		t.Errorf("Build = %v, says %s", err, said)
	}
	deb.Prebuilt.InitrdURL, deb.Prebuilt.InitrdSHA256 = "http://a/initrd", strings.Repeat("2", 64)
	if o := b.rootfsOptions(&deb); !strings.HasSuffix(o.KernelDeb, "/download/"+strings.Repeat("1", 16)+"-k.deb") || !strings.HasSuffix(o.KernelInitrd, "/download/"+strings.Repeat("2", 16)+"-initrd") {
		t.Errorf("the plan is told of %+v", o)
	}
	for _, other := range []func(*family.Target){
		func(x *family.Target) { x.Distro = "alpine" },
		func(x *family.Target) { x.Rootfs = false },
		func(x *family.Target) { x.Prebuilt.URL = "http://a/vmlinuz" },
	} {
		x := deb
		if other(&x); x.KernelDeb() || x.PackagedKernel() || !x.OwnKernel() {
			t.Errorf("the kernel of %+v is taken for a package's", x)
		}
	}
}

func TestPlanTellsOfKernels(t *testing.T) {
	b, targets, said := kernelBench(t)
	plan := func(want ...string) {
		t.Helper()
		said.Reset()
		if err := b.Build(t.Context(), &family.Family{Name: "mos_a"}, targets[:2], BuildOptions{Plan: true}); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(said.String()); got != strings.Join(want, "\n") {
			t.Errorf("the plan is:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
		}
	}
	plan("mos_a-src  kernel     again: none is built yet", "mos_a-pre  kernel     again: not there yet")
	if err := b.Build(t.Context(), &family.Family{Name: "mos_a"}, targets[1:2], BuildOptions{}); err != nil {
		t.Fatal(err)
	}
	// A kernel of fragments that are no more.
	image := map[string]string{"x86_64": "bzImage", "arm64": "Image"}[kernel.HostArch()]
	built := b.Paths.BuiltKernel(image, "6.1-x")
	if err := errors.Join(b.Paths.WriteFile(built, nil, 0o644), b.Paths.WriteFile(built+".json", []byte(`{"config":"older","release":"6.1-x","sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}`), 0o644),
		os.Symlink(filepath.Base(built), b.Paths.CurrentKernel(image))); err != nil {
		t.Fatal(err)
	}
	plan("mos_a-src  kernel     again: its configuration has changed", "mos_a-pre  kernel     kept")
	targets[1].Prebuilt.SHA256 = strings.Repeat("1", 64)
	plan("mos_a-src  kernel     again: its configuration has changed", "mos_a-pre  kernel     again: another one than 6.6.1-x is wanted now")
}
