package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"

	"meros/internal/hint"
	"meros/internal/mirror"
	"meros/internal/proc"
	"meros/internal/ui"
)

// enterApt is enterChroot for programs that get packages with the tree's apt.
func enterApt(ctx context.Context, r proc.Runner, root string) (*chroot, error) {
	c, err := enterChroot(ctx, r, root)
	if err != nil {
		return nil, err
	}
	if err := c.lendSources(); err != nil {
		return nil, errors.Join(err, c.leave())
	}
	return c, nil
}

// lendSources has apt get by http what the tree's sources.list says is to be got
// by https: the build's own proxy does that, with this host's certificates.
func (c *chroot) lendSources() error {
	const name = "etc/apt/sources.list"
	content, err := c.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if plain := mirror.PlainText(string(content)); err == nil && plain != string(content) {
		err = c.lend(name, []byte(plain), 0o644)
	}
	return err
}

// hasLists reports whether the bootstrap tool left the lists of packages.
func (c *chroot) hasLists() bool {
	lists, _ := c.glob("var/lib/apt/lists/*Release")
	return len(lists) > 0
}

func (c *chroot) update(ctx context.Context) error {
	if err := c.run(ctx, nil, "apt-get", "-q", "update"); err != nil {
		return fmt.Errorf("update the lists of packages: %w", lastError(err))
	}
	return nil
}

// aptGet begins what changes the packages of a tree.
var aptGet = []string{"apt-get", "-q", "-y", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"}

// aptStale are apt's words for packages that the archive has not, or not any more,
// as the lists say.
var aptStale = regexp.MustCompile(`404 +Not Found|Hash Sum mismatch|unexpected size`)

// apt runs an apt-get that fetches packages. The lists of a kept base may be weeks
// old, and name versions that the archive has dropped since: where that is why it
// fails, they are brought up to date and it runs once more.
func (c *chroot) apt(ctx context.Context, what string, argv ...string) error {
	printed := &ui.Tail{}
	err := c.run(ctx, printed, argv...)
	if err != nil && aptStale.MatchString(printed.String()) {
		fmt.Println("== the archive has not what its lists of an earlier day say: once more, with today's")
		if c.update(ctx) == nil {
			printed = &ui.Tail{}
			err = c.run(ctx, printed, argv...)
		}
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", what, aptError(err, printed.String()))
	if aptStale.MatchString(printed.String()) {
		err = hint.Add(err, "the archive has not what its own index says: try again later, or take all packages anew: meros build --refresh")
	}
	return err
}
