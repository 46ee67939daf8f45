package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/kernel"
	"meros/internal/layout"
	"meros/internal/rootfs"
	"meros/internal/store"
)

// ownKernel is a kernel that does not come out of the target's rootfs.
type ownKernel struct {
	file    string
	initrd  string // "": it needs none
	version string
	origin  string
	sum     string // of both files
	err     error  // why it cannot be had
}

// kernelArch is the kernel's word for an architecture in those of distributions and of Go.
func kernelArch(t *family.Target) string {
	word := t.Arch
	if word == "" {
		word = runtime.GOARCH
	}
	switch word {
	case "amd64", "x86_64":
		return "x86_64"
	case "arm64", "aarch64":
		return "arm64"
	case "386":
		return "i386"
	}
	return word
}

// ownKernels gets the kernels of those targets that have one, or a .deb with one,
// before the long work, by full id. One that cannot be had carries the reason: it is no reason to
// leave the other targets unbuilt.
func (b Builder) ownKernels(ctx context.Context, targets []*family.Target) (map[string]ownKernel, error) {
	kernels := map[string]ownKernel{}
	source := builtKernels{Builder: b, of: map[string]builtKernel{}}
	for _, t := range targets {
		var get func(context.Context, *family.Target) (ownKernel, error)
		switch {
		case t.Kernel == family.KernelSource:
			get = source.get
		case t.OwnKernel():
			get = b.prebuiltKernel
		case t.KernelDeb():
			get = b.kernelDeb
		default:
			continue
		}
		k, err := get(ctx, t)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w", t.FullID(), err)
		}
		k.err = err
		kernels[t.FullID()] = k
	}
	return kernels, nil
}

func (b Builder) kernelBuilder() kernel.Builder {
	return kernel.Builder{Streams: b.Streams, Runner: b.Runner, Paths: b.Paths, Offline: b.offline}
}

// builtKernels are the kernels of all targets with kernel="source", one for each
// architecture.
type builtKernels struct {
	Builder
	of map[string]builtKernel
}

type builtKernel struct {
	ownKernel
	first *family.Target // that asked for it
}

// get is a target's, built for the first of its architecture that asks.
func (b builtKernels) get(ctx context.Context, t *family.Target) (ownKernel, error) {
	arch := kernelArch(t)
	if k, known := b.of[arch]; known && k.err != nil {
		return ownKernel{}, fmt.Errorf("its kernel is that of %s, which failed", k.first.FullID())
	} else if known {
		return k.ownKernel, nil
	}
	r, file, err := b.kernelBuilder().Ensure(ctx, arch)
	k := ownKernel{file: file, version: r.Release, origin: "built from " + r.Source, sum: r.SHA256, err: err}
	b.of[arch] = builtKernel{k, t}
	return k, err
}

func (b Builder) prebuiltKernel(ctx context.Context, t *family.Target) (ownKernel, error) {
	p := t.Prebuilt
	if p.URL == "" {
		return ownKernel{}, hint.Add(errors.New("the recipe does not say which prebuilt kernel"), `write <kernel url="…" sha256="…" /> or <kernel package="…" /> into %s`, t.BuildFile)
	}
	getter := b.kernelBuilder()
	file, version, err := getter.Prebuilt(ctx, p.URL, p.SHA256, kernelArch(t), p.InitrdURL == "")
	if err != nil {
		return ownKernel{}, err
	}
	k := ownKernel{file: file, version: version, origin: fmt.Sprintf("%s (sha256 %s)", p.URL, p.SHA256), sum: prebuiltSum(t)}
	if p.InitrdURL != "" {
		k.initrd, err = getter.Download(ctx, p.InitrdURL, p.InitrdSHA256)
	}
	return k, err
}

// kernelDeb gets what a stage of the target's will unpack.
func (b Builder) kernelDeb(ctx context.Context, t *family.Target) (ownKernel, error) {
	p := t.Prebuilt
	_, err := b.kernelBuilder().Download(ctx, p.URL, p.SHA256)
	if err == nil && p.InitrdURL != "" {
		_, err = b.kernelBuilder().Download(ctx, p.InitrdURL, p.InitrdSHA256)
	}
	return ownKernel{}, err
}

// kernelFiles says to a plan where that will be.
func (b Builder) kernelFiles(t *family.Target, o *rootfs.Options) {
	p := t.Prebuilt
	if t.KernelDeb() {
		o.KernelDeb = b.kernelBuilder().Kept(p.URL, p.SHA256)
	}
	if t.KernelDeb() && p.InitrdURL != "" {
		o.KernelInitrd = b.kernelBuilder().Kept(p.InitrdURL, p.InitrdSHA256)
	}
}

func prebuiltSum(t *family.Target) string { return t.Prebuilt.SHA256 + t.Prebuilt.InitrdSHA256 }

// placeKernels puts the kernel that the recipe wants beside the image, takes away
// one that it does not want, and notes it in the record.
func (w *work) placeKernels(layers []store.Layer, record *ImageRecord) error {
	id := w.t.FullID()
	own, isOwn := w.kernels[id]
	switch {
	case w.t.PackagedKernel():
		record.KernelOrigin = packageOrigin(w.t)
		return w.placeKernel(layers, record)
	case isOwn:
		return w.placeOwnKernel(id, own, record)
	}
	return removeAll(w.Paths.Kernel(id), w.Paths.Initrd(id))
}

func packageOrigin(t *family.Target) string {
	switch p := t.Prebuilt; {
	case t.KernelDeb():
		return fmt.Sprintf("%s (sha256 %s), unpacked", p.URL, p.SHA256)
	case t.Kernel == family.KernelPrebuilt:
		return fmt.Sprintf("package %s of %s, unpacked", p.Package, t.Distro)
	}
	return "package of " + t.Distro
}

func (b Builder) placeOwnKernel(id string, k ownKernel, record *ImageRecord) error {
	files := map[string]string{b.Paths.Kernel(id): k.file}
	if k.initrd != "" {
		files[b.Paths.Initrd(id)] = k.initrd
	} else if err := removeAll(b.Paths.Initrd(id)); err != nil {
		return err
	}
	for to, from := range files {
		if err := b.copyIn(from, to); err != nil {
			return err
		}
	}
	record.KernelVersion, record.KernelOrigin, record.KernelSum = k.version, k.origin, k.sum
	return nil
}

// renewKernel replaces nothing but the kernel of an image that is up to date.
func (w *work) renewKernel() error {
	id := w.t.FullID()
	record, err := ReadImageRecord(w.Paths, id)
	if err != nil {
		return err
	}
	if w.kernelInPlace(record) {
		w.Step("%s is up to date", id)
		return nil
	}
	record.Kernel, record.KernelVersion, record.KernelOrigin, record.KernelSum = w.t.Kernel, "", "", ""
	if err := w.placeKernels(nil, &record); err != nil {
		return err
	}
	what := "the kernel is now " + record.KernelVersion
	if w.t.Kernel == family.KernelNone {
		what = "it has no kernel beside it now"
	}
	w.Step("%s: %s, the image is up to date", id, what)
	return writeRecord(w.Paths, id, record)
}

// kernelInPlace reports whether beside the image is the kernel that the recipe wants.
func (w *work) kernelInPlace(record ImageRecord) bool {
	own, isOwn := w.kernels[w.t.FullID()]
	switch {
	case w.t.PackagedKernel():
		return true // it came with the tree
	case isOwn:
		return record.Kernel == w.t.Kernel && record.KernelSum == own.sum && exists(w.Paths.Kernel(w.t.FullID()))
	}
	return record.Kernel == w.t.Kernel
}

// broughtKernel gives a target whose image the user brings its kernel, or says
// what it would do.
func (b Builder) broughtKernel(t *family.Target, plan bool) error {
	if plan && t.OwnKernel() {
		return b.explainKernel(t)
	}
	own, ok := b.kernels[t.FullID()]
	if own.err != nil {
		return fmt.Errorf("build %s: %w", t.FullID(), own.err)
	}
	if !ok {
		b.Step("%s: nothing to build: its image is brought by you: meros import %s FILE", t.FullID(), t.FullID())
		return nil
	}
	record := ImageRecord{Kernel: t.Kernel}
	if err := b.placeOwnKernel(t.FullID(), own, &record); err != nil {
		return err
	}
	b.Step("%s: the kernel is %s; its image is brought by you", t.FullID(), own.version)
	return writeRecord(b.Paths, t.FullID(), record)
}

func writeRecord(p layout.Paths, id string, record ImageRecord) error {
	content, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return err
	}
	return p.WriteFile(p.ImageRecord(id), append(content, '\n'), 0o644)
}

// SetKernel makes all targets take their kernel from elsewhere than the recipe
// says, for one build. Targets without a build file stay as they are.
func SetKernel(targets []*family.Target, mode string) ([]*family.Target, error) {
	modes := []family.KernelMode{family.KernelSource, family.KernelDistro, family.KernelPrebuilt, family.KernelNone}
	if !slices.Contains(modes, family.KernelMode(mode)) {
		return nil, fmt.Errorf("a kernel is source, distro, prebuilt or no, not %q", mode)
	}
	var out []*family.Target
	for _, t := range targets {
		if t.BuildFile == "" {
			out = append(out, t)
			continue
		}
		if !t.Rootfs && mode == string(family.KernelDistro) {
			return nil, fmt.Errorf("%s: the distribution's kernel is taken out of the rootfs, and none is built", t.FullID())
		}
		changed := *t
		changed.Kernel = family.KernelMode(mode)
		out = append(out, &changed)
	}
	return out, nil
}

// kernelMode is where the kernel of a target's image came from when it was
// built; before that, where the recipe wants it from.
func kernelMode(p layout.Paths, t *family.Target) family.KernelMode {
	if record, err := ReadImageRecord(p, t.FullID()); err == nil && record.Kernel != "" {
		return record.Kernel
	}
	return t.Kernel
}
