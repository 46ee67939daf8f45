package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"syscall"
	"time"

	"meros/internal/hint"
)

// remote is an entry of a guest's folder that passed all checks.
type remote struct {
	rel    string // path below the folder
	perm   fs.FileMode
	mtime  time.Time
	size   int64  // as claimed
	target string // of a link
}

// inventory is what a guest's folder is said to hold. Folders come before what
// is in them.
type inventory struct {
	folders, files, links []remote
	bytes                 int64 // as claimed
	refused               refusals
}

// walker takes the inventory of a guest's folder, within limits.
type walker struct {
	*lister
	base    string // the folder in the guest
	limits  PullOptions
	entries int
	top     listed // the folder that one was asked for
	inventory
}

var errFolder = errors.New("it is a folder")

// walk reads the folder and all below it.
func (w *walker) walk(ctx context.Context) error {
	return w.folder(ctx, "", 0)
}

// one takes a single file for the whole inventory.
func (w *walker) one(name string) error {
	e, err := w.lstat(fxpStat, path.Join(w.base, name))
	if err != nil {
		return err
	}
	if err := checkEntry("", name, nil); err != nil {
		w.refused.add(name, err)
		return nil
	}
	if e.mode&syscall.S_IFMT == syscall.S_IFDIR {
		w.top = e
		return errFolder
	}
	return w.leaf(remote{rel: name, perm: fs.FileMode(e.mode & 0o777), mtime: e.mtime}, e)
}

func (w *walker) folder(ctx context.Context, rel string, depth int) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var folders []remote
	seen := map[string]bool{}
	err := w.list(path.Join(w.base, rel), func(e listed) error {
		if w.entries++; w.entries > w.limits.MaxFiles {
			return tooMany(w.limits.MaxFiles)
		}
		if isPartial(e.name) { // what a push has not finished
			return nil
		}
		r := remote{rel: path.Join(rel, e.name), perm: fs.FileMode(e.mode & 0o777), mtime: e.mtime}
		if err := checkEntry(rel, e.name, seen); err != nil {
			w.refused.add(rel+"/"+e.name, err)
			return nil
		}
		seen[e.name] = true
		if e.mode&syscall.S_IFMT == syscall.S_IFDIR {
			folders = append(folders, r)
			return nil
		}
		return w.leaf(r, e)
	})
	if err != nil {
		return err
	}
	for _, f := range folders {
		if depth == maxDepth {
			w.refused.add(f.rel, fmt.Errorf("more than %d folders deep", maxDepth))
			continue
		}
		if err := w.enter(ctx, f, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// enter walks a folder in a folder. One that the guest does not show is refused,
// and the rest goes on.
func (w *walker) enter(ctx context.Context, f remote, depth int) error {
	folders, files, links := len(w.folders), len(w.files), len(w.links)
	w.folders = append(w.folders, f)
	err := w.folder(ctx, f.rel, depth)
	if guestSaysNo(err) {
		w.folders, w.files, w.links = w.folders[:folders], w.files[:files], w.links[:links]
		w.refused.add(f.rel, err)
		return nil
	}
	return err
}

func (w *walker) leaf(r remote, e listed) error {
	switch e.mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		if e.size > math.MaxInt64-uint64(w.bytes) || w.bytes+int64(e.size) > w.limits.MaxSize {
			return tooBig(w.limits.MaxSize)
		}
		r.size = int64(e.size)
		w.bytes += r.size
		w.files = append(w.files, r)
	case syscall.S_IFLNK:
		w.links = append(w.links, r)
	case 0:
		w.refused.add(r.rel, errors.New("of unknown kind"))
	default:
		w.refused.add(r.rel, errors.New("neither file, folder nor link"))
	}
	return nil
}

// readLinks asks where the links point and keeps those that may.
func (w *walker) readLinks(ctx context.Context) error {
	kept := w.links[:0]
	for _, l := range w.links {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		target, err := w.readlink(path.Join(w.base, l.rel))
		if err != nil && !guestSaysNo(err) {
			return err
		}
		if err == nil {
			err = checkLink(l.rel, target)
		}
		if err != nil {
			w.refused.add(l.rel, err)
			continue
		}
		l.target = target
		kept = append(kept, l)
	}
	w.links = kept
	return nil
}

func checkEntry(dir, name string, seen map[string]bool) error {
	if err := checkName(name); err != nil {
		return err
	}
	if len(dir)+1+len(name) > maxPath {
		return errors.New("path of more than 3000 bytes")
	}
	if seen[name] {
		return errors.New("listed twice")
	}
	return nil
}

func tooMany(limit int) error {
	return hint.Add(fmt.Errorf("the guest shows more than %d entries", limit), "raise --max-files if that is right")
}

func tooBig(limit int64) error {
	return hint.Add(fmt.Errorf("the guest shows more than %s", bytesOf(limit)), "raise --max-size if that is right")
}
