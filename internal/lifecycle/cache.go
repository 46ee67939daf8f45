package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/mirror"
	"meros/internal/proc"
	"meros/internal/rootfs"
	"meros/internal/sandbox"
	"meros/internal/store"
	"meros/internal/ui"
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
// the same base take it too. Builds of other families do the same meanwhile.
func (b Builder) stamp(ctx context.Context, s rootfs.Stamp) error {
	if s.Time == "" {
		return nil
	}
	const name = "base-stamps" // no family's name, which has no dash
	unlock, err := b.Paths.Lock(ctx, name, "build", func(string) {})
	if err != nil {
		return err
	}
	defer unlock()
	known := map[store.Key]string{}
	maps.Copy(known, b.stamps())
	known[s.Base] = s.Time
	content, err := json.MarshalIndent(known, "", "  ")
	if err != nil {
		return err
	}
	return b.Paths.WriteFile(b.Paths.Stamps(), append(content, '\n'), 0o644)
}

// CacheUsage is what is kept to make builds fast, in bytes but for the stages.
type CacheUsage struct {
	Stages    store.Usage // the caller's
	Downloads int64
	Kernels   int64 // what kernels are made of: sources, objects, compilers' results
}

// CacheUsage measures what is kept.
func (b Builder) CacheUsage(ctx context.Context) (u CacheUsage, err error) {
	layers := func(dir string) (int64, error) { return b.layersUsage(ctx, dir) }
	if u.Stages, err = b.openStore(ctx).Usage(layers); err != nil {
		return u, err
	}
	if u.Downloads, err = mirror.Sweep(b.Paths.Downloads()); err != nil {
		return u, err
	}
	for _, dir := range []string{b.Paths.KernelBuild(), b.Paths.CompilerCache()} {
		n, err := store.DiskUsage(dir)
		if err != nil {
			return u, err
		}
		u.Kernels += n
	}
	return u, nil
}

const stepMeasure = "measure"

// measure prints what a folder takes up.
func measure(_ context.Context, _ proc.Runner, _, dir string) error {
	n, err := store.DiskUsage(dir)
	if err == nil {
		_, err = fmt.Println(n)
	}
	return err
}

// layersUsage is store.DiskUsage of layers. An ordinary user's have folders that are
// closed to all but their owner, one of the user's subordinate ids, so that only a
// sandbox sees into them.
func (b Builder) layersUsage(ctx context.Context, dir string) (int64, error) {
	n, err := store.DiskUsage(dir)
	if os.Geteuid() == 0 || !errors.Is(err, fs.ErrPermission) {
		return n, err
	}
	printed := &ui.Tail{}
	if err := sandbox.Run(ctx, b.Runner, sandbox.Spec{Step: stepMeasure, Args: dir, Tree: sandbox.Tree{Root: dir}}, printed); err != nil {
		return 0, fmt.Errorf("measure %s: %w", dir, err)
	}
	return strconv.ParseInt(strings.TrimSpace(printed.String()), 10, 64)
}

// unused is how long after its last use a download is pruned.
const unused = 30 * 24 * time.Hour

// Pruned is how much a Prune removed.
type Pruned struct{ Stages, Downloads int }

// Prune removes stage results that no target of the families reads any more, and
// downloads that no build has used for a month; with all, every one.
func (b Builder) Prune(ctx context.Context, families []*family.Family, all bool) (p Pruned, err error) {
	s := b.openStore(ctx)
	release, err := s.Own()
	if errors.Is(err, store.ErrInUse) {
		return p, hint.Add(err, "wait until it is done, then prune")
	}
	if err != nil {
		return p, err
	}
	defer release()
	needed, age := map[store.Key]bool{}, unused
	if all {
		families, age = nil, 0
	}
	for _, f := range families {
		if err := b.need(ctx, f, needed); err != nil {
			return p, err
		}
	}
	keys, err := s.Keys()
	if err != nil {
		return p, err
	}
	errs := []error{s.Sweep()}
	p.Downloads, err = mirror.Prune(b.Paths.Downloads(), age)
	errs = append(errs, err)
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
		p.Stages++
	}
	return p, errors.Join(errs...)
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
