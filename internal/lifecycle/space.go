package lifecycle

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"meros/internal/hint"
)

// fullBytes is the free space below which a disk counts as full: tools fail in
// words of their own when their next write does not fit.
const fullBytes = 24 << 20

// sayIfFull adds to an error that the disk of dir is full, if it is, since many
// tools do not tell.
func sayIfFull(err error, dir string) error {
	var fs unix.Statfs_t
	if err == nil || unix.Statfs(dir, &fs) != nil {
		return err
	}
	full := fs.Bavail*uint64(fs.Bsize) < fullBytes
	if told := strings.Contains(strings.ToLower(err.Error()), "no space left"); !full && !told {
		return err
	} else if !told {
		err = fmt.Errorf("%w: no space left on the disk of %s", err, dir)
	}
	return hint.Add(err, "make room there; meros cache prune frees what no recipe needs any more")
}
