package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"meros/internal/family"
	"meros/internal/image"
	"meros/internal/layout"
	"meros/internal/rootfs"
	"meros/internal/sandbox"
	"meros/internal/store"
)

// ImageRecord says what an image was made of. It lies beside the image.
type ImageRecord struct {
	Key           string            `json:"key"`
	Built         time.Time         `json:"built"`
	Distro        string            `json:"distro"`
	Release       string            `json:"release,omitempty"`
	Kernel        family.KernelMode `json:"kernel"`
	KernelVersion string            `json:"kernelVersion,omitempty"`
	KernelOrigin  string            `json:"kernelOrigin,omitempty"`
	KernelSum     string            `json:"kernelSha256,omitempty"` // of a kernel of meros's own
	NoInitrd      bool              `json:"noInitrd,omitempty"`     // a package's kernel needs none
}

// ReadImageRecord returns the record of a target's image. The error wraps
// fs.ErrNotExist when meros has not built it.
func ReadImageRecord(paths layout.Paths, fullID string) (ImageRecord, error) {
	var r ImageRecord
	content, err := os.ReadFile(paths.ImageRecord(fullID))
	if err == nil {
		err = json.Unmarshal(content, &r)
	}
	return r, err
}

// upToDate reports whether the image in place is the one that would be built.
func (w *work) upToDate() bool {
	record, err := ReadImageRecord(w.Paths, w.t.FullID())
	if err != nil || record.Key != string(w.key) || exists(w.Paths.Placing(w.t.FullID())) {
		return false
	}
	files := []string{w.Paths.Image(w.t.FullID())}
	if w.t.PackagedKernel() {
		files = append(files, w.Paths.Kernel(w.t.FullID()))
		if !record.NoInitrd {
			files = append(files, w.Paths.Initrd(w.t.FullID()))
		}
	}
	for _, file := range files {
		if _, err := os.Stat(file); err != nil {
			return false
		}
	}
	return true
}

// packAndPlace packs the layers into an image, checks it and puts it in place
// together with its kernel.
func (w *work) packAndPlace(ctx context.Context, layers []store.Layer) (err error) {
	out := w.Paths.Image(w.t.FullID()) + partial
	if err := w.Paths.MkdirAll(w.Paths.Images(), 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.removePartials()) }()
	if err := w.removePartials(); err != nil {
		return err
	}
	w.line.Stage(packBehind, "packing with %d MiB free", w.t.FreeMB)
	// The identity goes to a layer that is thrown away: the store keeps no keys.
	p, err := w.store.New(w.key)
	if err != nil {
		return err
	}
	w.pack.Out = out
	err = sandbox.Run(ctx, w.Runner, sandbox.Spec{Step: stepPack, Args: w.pack, Tree: w.tree(layers, p)}, w.log)
	if err = errors.Join(err, p.Discard()); err != nil {
		return err
	}
	if err := image.Check(ctx, w.Runner, out, w.log); err != nil {
		return err
	}
	if w.t.Compress {
		w.line.Stage(compressBehind, "compressing")
		if err := image.Compress(ctx, w.Runner, out); err != nil {
			return err
		}
	}
	return w.place(layers)
}

const partial = ".partial"

// removePartials takes away what this target's build left unfinished, now or
// in a run that died.
func (w *work) removePartials() error {
	id := w.t.FullID()
	var errs []error
	disk := w.Paths.Image(id) + partial
	for _, file := range []string{disk, disk + image.CompressSuffix, w.Paths.Kernel(id) + partial, w.Paths.Initrd(id) + partial} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// place renames the new files to their names: kernel and initrd first, so that
// an image never waits for a kernel that is not there. Who dies on the way leaves
// the mark that says so.
func (w *work) place(layers []store.Layer) error {
	id := w.t.FullID()
	if err := w.settle(w.Paths.Image(id) + partial); err != nil {
		return err
	}
	if err := w.unused(); err != nil { // a guest may have been started since ready asked
		return err
	}
	if err := w.Paths.WriteFile(w.Paths.Placing(id), nil, 0o644); err != nil {
		return err
	}
	record := ImageRecord{Key: string(w.key), Built: time.Now().UTC().Truncate(time.Second), Distro: w.t.Distro, Release: w.t.Release, Kernel: w.t.Kernel}
	if err := w.placeKernels(layers, &record); err != nil {
		return err
	}
	if err := os.Rename(w.Paths.Image(id)+partial, w.Paths.Image(id)); err != nil {
		return err
	}
	return errors.Join(writeRecord(w.Paths, id, record), os.Remove(w.Paths.Placing(id)))
}

func removeAll(files ...string) error {
	for _, file := range files {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// placeKernel copies kernel and initrd, if it needs one, from the layer that has
// them, and notes them.
func (w *work) placeKernel(layers []store.Layer, record *ImageRecord) error {
	id := w.t.FullID()
	for _, l := range layers {
		version, err := os.ReadFile(filepath.Join(l.Out(), rootfs.VersionFile))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		record.KernelVersion = strings.TrimSpace(string(version))
		if err := w.copyIn(filepath.Join(l.Out(), rootfs.KernelFile), w.Paths.Kernel(id)); err != nil {
			return err
		}
		err = w.copyIn(filepath.Join(l.Out(), rootfs.InitrdFile), w.Paths.Initrd(id))
		if record.NoInitrd = errors.Is(err, fs.ErrNotExist); record.NoInitrd {
			return removeAll(w.Paths.Initrd(id))
		}
		return err
	}
	return fmt.Errorf("no stage brought a kernel although kernel=%q", w.t.Kernel)
}

func (b Builder) copyIn(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return b.Paths.WriteFile(to, content, 0o644)
}

// settle makes an image ready to be renamed.
func (w *work) settle(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	// A rename may reach the disk before the data does (rename(2) says nothing of
	// it): after a power cut the old image must be there, or the whole new one.
	// It holds the guest's host key. libvirt gives it to its own user while the
	// guest runs.
	return errors.Join(f.Sync(), f.Chmod(0o600), f.Close(), w.Paths.Owner.Give(file))
}
