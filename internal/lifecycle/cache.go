package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/mirror"
	"meros/internal/rootfs"
	"meros/internal/store"
)

// stamps are the times at which bases were last refreshed. A file that is not
// there or cannot be read says that none was: a build then starts afresh.
func (b Builder) stamps() map[store.Key]string {
	content, err := os.ReadFile(b.Paths.Stamps())
	var known map[store.Key]string
	if err != nil || json.Unmarshal(content, &known) != nil {
		return nil
	}
	return known
}

// stamp keeps the time of a base that was made now, so that other targets on
// the same base take it too.
func (b Builder) stamp(s rootfs.Stamp) error {
	if s.Time == "" {
		return nil
	}
	b.making.mu.Lock()
	defer b.making.mu.Unlock()
	known := map[store.Key]string{}
	maps.Copy(known, b.stamps())
	known[s.Base] = s.Time
	content, err := json.MarshalIndent(known, "", "  ")
	if err != nil {
		return err
	}
	return b.Paths.WriteFile(b.Paths.Stamps(), append(content, '\n'), 0o644)
}

// CacheUsage measures the caller's store of stage results, and what is kept of
// downloads, in bytes.
func (b Builder) CacheUsage(ctx context.Context) (stages store.Usage, downloads int64, err error) {
	if stages, err = b.openStore(ctx).Usage(); err != nil {
		return stages, 0, err
	}
	downloads, err = mirror.Sweep(b.Paths.Downloads())
	return stages, downloads, err
}

// Prune removes stage results that no target of the families reads any more; with
// all, every one. It returns how many it removed.
func (b Builder) Prune(ctx context.Context, families []*family.Family, all bool) (int, error) {
	s := b.openStore(ctx)
	release, err := s.Own()
	if errors.Is(err, store.ErrInUse) {
		return 0, hint.Add(err, "wait until it is done, then prune")
	}
	if err != nil {
		return 0, err
	}
	defer release()
	needed := map[store.Key]bool{}
	for _, f := range families {
		if all {
			break
		}
		if err := b.need(ctx, f, needed); err != nil {
			return 0, err
		}
	}
	keys, err := s.Keys()
	if err != nil {
		return 0, err
	}
	removed, errs := 0, []error{s.Sweep()}
	if all {
		errs = append(errs, os.RemoveAll(b.Paths.Downloads()))
	}
	for _, key := range keys {
		if needed[key] {
			continue
		}
		if err := s.Remove(key); err != nil {
			errs = append(errs, err)
			continue
		}
		removed++
	}
	return removed, errors.Join(errs...)
}

// need marks what the targets of a family read.
func (b Builder) need(ctx context.Context, f *family.Family, needed map[store.Key]bool) error {
	for _, t := range f.Targets {
		if !t.Rootfs {
			continue
		}
		stages, err := rootfs.Plan(ctx, b.Runner, t, b.rootfsOptions(t))
		if err != nil {
			return fmt.Errorf("%s: %w", t.FullID(), err)
		}
		for _, stage := range stages {
			needed[stage.Key] = true
		}
	}
	return nil
}
