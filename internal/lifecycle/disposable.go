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
		return err
	}
	return errors.Join(os.Chmod(file, 0o600), r.Paths.Owner.Give(file))
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
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
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
