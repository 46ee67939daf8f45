package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"meros/internal/family"
	"meros/internal/rootfs"
)

// leftOut returns why an optional target is not built now, or nil: it would have
// to be fetched, and its mirror cannot be reached. A target that was asked for by
// name is never left out.
func (b Builder) leftOut(ctx context.Context, t *family.Target, o BuildOptions) (why, err error) {
	if !t.Optional || o.Named {
		return nil, nil
	}
	ro := b.rootfsOptions(t)
	stages, err := rootfs.Plan(ctx, b.Runner, t, ro)
	switch {
	case err == nil && (b.have(ctx, stages) || b.builtAlready(ctx, t)):
		return nil, nil
	case err == nil && o.Offline:
		return errNotKept, nil
	case err == nil:
		err = rootfs.Reachable(ctx, b.Runner, t, ro)
	}
	if ctx.Err() == nil && errors.Is(err, rootfs.ErrMirror) {
		return err, nil
	}
	return nil, err
}

var errNotKept = errors.New("an offline build has not its packages")

// builtAlready reports whether the target's image is what the recipe says, so that
// nothing of it is needed.
func (b Builder) builtAlready(ctx context.Context, t *family.Target) bool {
	w, err := b.newWork(ctx, t)
	return err == nil && w.upToDate()
}

// have reports whether all that comes from a mirror is there already.
func (b Builder) have(ctx context.Context, stages []rootfs.Stage) bool {
	s := b.openStore(ctx)
	return !slices.ContainsFunc(stages, func(stage rootfs.Stage) bool {
		_, there := s.Layer(stage.Key)
		return stage.Fetches && !there
	})
}

// sayLeftOut tells that an optional target was passed over.
func (b Builder) sayLeftOut(t *family.Target, why error, plan bool) error {
	text := fmt.Sprintf("%s: left out: it is optional, and %v", t.FullID(), why)
	if plan {
		_, err := fmt.Fprintln(b.Out, text)
		return err
	}
	b.Step("%s", text)
	if exists(b.Paths.Image(t.FullID())) {
		b.Step("%s: its image stays as it was built before", t.FullID())
	}
	b.Step("%s: to see what is wrong: meros build %s %s", t.FullID(), t.Family, t.Name)
	return nil
}

// built returns the targets less the optional ones without an image, and says
// which those are. If none is left, all are returned: there is nothing to do
// without them.
func (g Guests) built(targets []*family.Target) []*family.Target {
	missing := func(t *family.Target) bool { return t.Optional && t.Rootfs && !exists(g.Paths.Image(t.FullID())) }
	kept := slices.DeleteFunc(slices.Clone(targets), missing)
	if len(kept) == 0 {
		return targets
	}
	for _, t := range targets {
		if missing(t) {
			g.Step("%s: left out: it is optional, and there is no image of it", t.FullID())
		}
	}
	return kept
}
