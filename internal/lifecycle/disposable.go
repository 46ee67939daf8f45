package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"meros/internal/hint"
	"meros/internal/image"
	"meros/internal/layout"
	"meros/internal/virt"
)

// overlaySuffix ends the names of the files in Paths.Overlays.
const overlaySuffix = ".qcow2"

// makeOverlay gives a disposable guest the file that takes all it writes.
func (r *run) makeOverlay(ctx context.Context, fullID string) error {
	if err := r.Paths.MkdirAll(r.Paths.Overlays(), 0o755); err != nil {
		return err
	}
	file := r.Paths.Overlay(fullID)
	if err := image.Overlay(ctx, r.Runner, r.Paths.Image(fullID), file); err != nil {
		return notOurs(err, r.Paths.Image(fullID))
	}
	return errors.Join(os.Chmod(file, 0o600), r.Paths.Owner.Give(file))
}

// lendImage lets libvirt's qemu user read an image that a disposable guest runs
// over, and reports whether it may: where it may not, libvirt makes the image its
// user's own, and never gives it back.
func (g Guests) lendImage(fullID string) bool {
	user, err := virt.FindQEMUUser()
	return err == nil && user.LetRead(g.Paths.Image(fullID)) == nil
}

// takeBackImage undoes lendImage.
func (g Guests) takeBackImage(fullID string) error {
	user, err := virt.FindQEMUUser()
	if err != nil {
		return nil // then it was never lent
	}
	err = user.KeepFrom(g.Paths.Image(fullID))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ELOOP) {
		return nil // gone, another's, or a link, which LetRead does not follow either
	}
	return err
}

// dropOverlays removes what disposable guests of these families wrote, except of
// those that run, whoever runs them. It also finds what a crash has left.
func (g Guests) dropOverlays(ctx context.Context, d virt.Daemon, families []string) error {
	files, err := g.overlays(families)
	if err != nil || len(files) == 0 {
		return err
	}
	domains, err := d.Domains(ctx)
	if err != nil {
		return err
	}
	var faults []error
	for _, file := range files {
		used := slices.ContainsFunc(domains, func(d virt.Domain) bool { return d.State.Active() && d.Opens(file) })
		if used {
			continue
		}
		err := os.Remove(file)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		err = errors.Join(err, g.takeBackImage(strings.TrimSuffix(filepath.Base(file), overlaySuffix)))
		if err != nil {
			faults = append(faults, fmt.Errorf("throw away what a disposable guest wrote: %w", err))
		}
	}
	return errors.Join(faults...)
}

// overlays lists the files of disposable guests, those of some families or, with
// nil, of all.
func (g Guests) overlays(families []string) ([]string, error) {
	entries, err := os.ReadDir(g.Paths.Overlays())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), overlaySuffix)
		family, _, err := layout.SplitFullID(id)
		if ok && err == nil && (families == nil || slices.Contains(families, family)) {
			files = append(files, filepath.Join(g.Paths.Overlays(), e.Name()))
		}
	}
	return files, nil
}

// familiesOfOverlays are the families that disposable guests ran of.
func (g Guests) familiesOfOverlays() ([]string, error) {
	files, err := g.overlays(nil)
	var names []string
	for _, file := range files {
		name, _, _ := strings.Cut(filepath.Base(file), "-")
		names = append(names, name)
	}
	return names, err
}

// sameKind returns why a guest that runs already is not what is asked for.
func sameKind(d virt.Domain, o InitOptions) error {
	var err error
	switch {
	case o.Fresh:
		err = fmt.Errorf("%s runs already, and a fresh one is asked for", d.Name)
	case o.Disposable && !d.Mark.Disposable:
		err = fmt.Errorf("%s runs already, and what it writes stays", d.Name)
	default:
		return nil
	}
	return hint.Add(err, "shut it down first: meros shutdown %s", d.Name)
}

// notOurs adds what to do about an image that the caller may not read: libvirt gives
// back what a guest wrote to when the guest stops, but not across a power cut.
func notOurs(err error, file string) error {
	if f, open := os.Open(file); open == nil {
		return errors.Join(err, f.Close())
	} else if errors.Is(open, fs.ErrPermission) {
		return hint.Add(err, "you may not read it, as libvirt's qemu user may own it since the host went down: `sudo chown $USER %s`", file)
	}
	return err
}
