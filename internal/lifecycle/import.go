package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/image"
)

// ImportOptions come from the call.
type ImportOptions struct {
	Format  image.Format // "": told by the content
	Replace bool         // an image that is there is replaced
}

// Import makes a file that the person brings a target's image: a disk as qcow2, an
// ISO as it is, for a drive of its own. The file is only read. The image comes
// into place whole or not at all.
func (g Guests) Import(ctx context.Context, t *family.Target, file string, o ImportOptions) error {
	id := t.FullID()
	if !t.Imported {
		return hint.Add(fmt.Errorf("import %s: its image is built by the recipe, from %s", id, t.BuildFile),
			"a target without a build file, only with libvirt/%s.xml, is one whose image you bring", t.Name)
	}
	unlock, err := g.lock(ctx, t.Family, "import")
	if err != nil {
		return err
	}
	defer unlock()
	s, err := image.Inspect(ctx, g.Runner, file, o.Format)
	if err == nil {
		err = g.takeIn(ctx, id, s, o)
	}
	if err != nil {
		return fmt.Errorf("import %s: %w", id, err)
	}
	return nil
}

func (g Guests) takeIn(ctx context.Context, id string, s image.Source, o ImportOptions) (err error) {
	place := g.Paths.Image(id)
	if s.Format == image.ISO {
		place = g.Paths.CDROM(id)
	}
	if exists(place) && !o.Replace {
		return hint.Add(fmt.Errorf("there is an image already: %s", place), "--replace puts this one in its place")
	}
	if err := checkUnused(place, id); err != nil {
		return err
	}
	if err := g.Paths.MkdirAll(g.Paths.Images(), 0o755); err != nil {
		return err
	}
	whole, unpacked := place+partial, place+".disk"+partial
	defer func() { err = errors.Join(err, removeAll(whole, unpacked)) }()
	if s.Format == image.OVA {
		if s, err = g.unpack(ctx, id, s, unpacked); err != nil {
			return err
		}
	}
	g.Step("%s: taking in %s, %s, a disk of %d MiB", id, s.File, s.Format, (s.Bytes+1<<20-1)>>20)
	if s.Format == image.ISO {
		err = image.Copy(ctx, s, whole)
	} else {
		err = image.Convert(ctx, g.Runner, s, whole)
	}
	if err != nil {
		return err
	}
	return g.putInPlace(whole, place)
}

// unpack takes the disk out of an OVA and looks at it as at one that came alone.
func (g Guests) unpack(ctx context.Context, id string, s image.Source, out string) (image.Source, error) {
	g.Step("%s: unpacking %s", id, s.File)
	found, err := image.Unpack(ctx, s, out)
	if err != nil {
		return s, err
	}
	if found.Disks > 1 {
		g.Warn("%s: there are %d disks in %s: only the first is taken", id, found.Disks, s.File)
	}
	if !found.Checked {
		g.Warn("%s: %s has no manifest: nothing says whether it is whole", id, s.File)
	}
	disk, err := image.Inspect(ctx, g.Runner, out, "")
	if err == nil && (disk.Format == image.OVA || disk.Format == image.ISO) {
		err = fmt.Errorf("%s: the disk in it is %s", s.File, disk.Format)
	}
	return disk, err
}

// putInPlace renames a file that is whole, once it is on the disk.
func (g Guests) putInPlace(whole, place string) error {
	f, err := os.Open(whole)
	if err != nil {
		return err
	}
	err = errors.Join(f.Sync(), f.Close(), os.Chmod(whole, 0o644), g.Paths.Owner.Give(whole))
	if err != nil {
		return err
	}
	return os.Rename(whole, place)
}
