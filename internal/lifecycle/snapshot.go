package lifecycle

import (
	"context"
	"fmt"
	"slices"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/image"
)

// Snapshots lists the states of a target's disk that were kept, oldest first.
func (g Guests) Snapshots(ctx context.Context, t *family.Target) ([]image.Snapshot, error) {
	file := g.Paths.Image(t.FullID())
	if !exists(file) {
		return nil, noImage(t)
	}
	// A guest that runs writes to the file, which qemu-img then will not open.
	if err := checkUnused(file, t.FullID()); err != nil {
		return nil, err
	}
	return image.Snapshots(ctx, g.Runner, file)
}

// Snapshot takes, restores or removes a snapshot of the disk of a target that does
// not run.
func (g Guests) Snapshot(ctx context.Context, t *family.Target, act image.SnapshotAct, name string) error {
	unlock, err := g.lock(ctx, t.Family, "snapshot")
	if err != nil {
		return err
	}
	defer unlock()
	had, err := g.Snapshots(ctx, t)
	if err != nil {
		return err
	}
	there := slices.ContainsFunc(had, func(s image.Snapshot) bool { return s.Name == name })
	switch {
	case act == image.TakeSnapshot && there:
		return hint.Add(fmt.Errorf("%s has a snapshot %s already", t.FullID(), name), "take another name, or remove it: meros snapshot remove %s %s", t.FullID(), name)
	case act != image.TakeSnapshot && !there:
		return hint.Add(fmt.Errorf("%s: %w: %s", t.FullID(), image.ErrNoSnapshot, name), "those there are: meros snapshot list %s", t.FullID())
	}
	return image.ChangeSnapshot(ctx, g.Runner, act, g.Paths.Image(t.FullID()), name)
}

func noImage(t *family.Target) error {
	err := fmt.Errorf("%s has no image", t.FullID())
	if t.Imported {
		return hint.Add(err, "bring one: meros import %s FILE", t.FullID())
	}
	return hint.Add(err, "build it: meros build %s", t.Family)
}
