package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"meros/internal/layout"
)

// Store is the folder of layers, data/build/cache.
type Store struct {
	paths  layout.Paths
	owner  string
	remove func(path string) error
}

// Open returns the store below paths' root. owner tells apart the layers of
// those whose builds see ids differently: "" is root. remove removes a tree.
func Open(paths layout.Paths, owner string, remove func(path string) error) Store {
	if owner != "" {
		owner = "-" + owner
	}
	return Store{paths, owner, remove}
}

// Layer is a stage's whole result.
type Layer struct {
	Key Key
	dir string
}

// FS is the folder with the layer's part of the rootfs.
func (l Layer) FS() string { return filepath.Join(l.dir, "fs") }

// Out is the folder with what the stage made beside the rootfs.
func (l Layer) Out() string { return filepath.Join(l.dir, "out") }

// Made is when the layer's stage was done, within its own duration. Settling changes
// the layer's folder later, and not this one.
func (l Layer) Made() (time.Time, error) {
	info, err := os.Stat(l.Out())
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

func (s Store) layers() string  { return filepath.Join(s.paths.Cache(), "layers"+s.owner) }
func (s Store) pending() string { return filepath.Join(s.paths.Cache(), "pending"+s.owner) }

// ErrInUse is returned by Own while a build, be it another user's, uses the cache.
var ErrInUse = errors.New("a build uses the store")

// Use keeps layers, and the downloads that all users share, from being removed until
// release is called.
func (s Store) Use() (release func(), err error) { return s.hold(unix.LOCK_SH) }

// Own makes sure that no build uses the store until release is called.
func (s Store) Own() (release func(), err error) {
	release, err = s.hold(unix.LOCK_EX | unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, ErrInUse
	}
	return release, err
}

// closed is the mode of all that holds layers. Programs with the setuid bit, device
// nodes and folders that everybody may write to are for the guest; on the host nobody
// else gets at them.
const closed = 0o700

// makeDirs makes the store's folders, and closes those that an earlier meros left open.
func (s Store) makeDirs() error {
	for _, dir := range []string{s.layers(), s.pending()} {
		if err := s.paths.MkdirAll(dir, closed); err != nil {
			return err
		}
		if err := os.Chmod(dir, closed); err != nil {
			return err
		}
	}
	return nil
}

func (s Store) hold(how int) (release func(), err error) {
	if err := s.makeDirs(); err != nil {
		return nil, err
	}
	f, err := lockDir(s.paths.Cache(), how)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}

// Layer returns the layer of that key, if the store has it whole.
func (s Store) Layer(key Key) (Layer, bool) {
	l := Layer{Key: key, dir: filepath.Join(s.layers(), string(key))}
	info, err := os.Stat(l.FS())
	return l, err == nil && info.IsDir() && !l.stale()
}

// Pending is a layer in the making. It belongs to the process that made it.
type Pending struct {
	Layer
	store Store
	lock  *os.File
}

// Work is an empty folder beside FS for an overlay's own use.
func (p *Pending) Work() string { return filepath.Join(p.dir, "work") }

// New starts the layer of that key. End it with Commit or Discard.
func (s Store) New(key Key) (*Pending, error) {
	if err := s.makeDirs(); err != nil {
		return nil, err
	}
	// Shared with other builds' New, but not with a Sweep, which would take the
	// new folder for a dead build's before it is locked.
	making, err := lockDir(s.pending(), unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer making.Close()
	dir, err := os.MkdirTemp(s.pending(), string(key)+"-")
	if err != nil {
		return nil, err
	}
	p := &Pending{Layer: Layer{Key: key, dir: dir}, store: s}
	if p.lock, err = lockDir(dir, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	// The rootfs's own / is fs itself, so it has the mode that a / has.
	for _, sub := range []string{p.FS(), p.Out(), p.Work()} {
		if err := os.Mkdir(sub, 0o755); err != nil {
			return nil, errors.Join(err, p.Discard())
		}
	}
	return p, nil
}

// Commit puts the layer in place and returns it. If another process was first,
// its layer is kept: both were made of the same things.
func (p *Pending) Commit() (Layer, error) {
	defer p.lock.Close()
	if err := p.store.remove(p.Work()); err != nil {
		return Layer{}, errors.Join(err, p.Discard())
	}
	l := Layer{Key: p.Key, dir: filepath.Join(p.store.layers(), string(p.Key))}
	if err := mark(p.dir); err != nil {
		return Layer{}, errors.Join(err, p.Discard())
	}
	err := os.Rename(p.dir, l.dir)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		return l, p.Discard()
	}
	if err != nil {
		return Layer{}, errors.Join(fmt.Errorf("keep a stage's result: %w", err), p.Discard())
	}
	return l, nil
}

// Discard removes a layer in the making.
func (p *Pending) Discard() error {
	defer p.lock.Close()
	return p.store.remove(p.dir)
}

// Remove takes the layer of that key out of the store.
func (s Store) Remove(key Key) error {
	l := Layer{Key: key, dir: filepath.Join(s.layers(), string(key))}
	if _, err := os.Lstat(l.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// A rename first: a layer that is half removed must not look whole.
	gone := filepath.Join(s.pending(), string(key)+"-removed")
	if err := os.Rename(l.dir, gone); err != nil {
		return err
	}
	return s.remove(gone)
}

// Sweep removes what builds that died have left in the making, and what a power
// cut may have torn. Layers that a living process makes are its own and stay.
func (s Store) Sweep() error {
	if err := s.makeDirs(); err != nil {
		return err
	}
	making, err := lockDir(s.pending(), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer making.Close()
	entries, err := os.ReadDir(s.pending())
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		dir := filepath.Join(s.pending(), e.Name())
		lock, err := lockDir(dir, unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			continue // in the making
		}
		errs = append(errs, s.remove(dir))
		lock.Close()
	}
	return errors.Join(append(errs, s.removeStale())...)
}

func (s Store) removeStale() error {
	keys, err := s.Keys()
	errs := []error{err}
	for _, key := range keys {
		if l := (Layer{Key: key, dir: filepath.Join(s.layers(), string(key))}); l.stale() {
			errs = append(errs, s.Remove(key))
		}
	}
	return errors.Join(errs...)
}

// lockDir holds a folder for this process (flock(2)); the lock ends with the
// descriptor.
func lockDir(dir string, how int) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Keys returns the keys of all layers.
func (s Store) Keys() ([]Key, error) {
	entries, err := os.ReadDir(s.layers())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var keys []Key
	for _, e := range entries {
		keys = append(keys, Key(e.Name()))
	}
	return keys, err
}

// Usage is what the store holds: layers and their size on disk in bytes.
type Usage struct {
	Layers int
	Bytes  int64
}

// Usage measures the store, by a DiskUsage that may look into all layers.
func (s Store) Usage(diskUsage func(dir string) (int64, error)) (Usage, error) {
	var u Usage
	keys, err := s.Keys()
	if err != nil {
		return u, err
	}
	u.Layers = len(keys)
	u.Bytes, err = diskUsage(s.layers())
	return u, err
}

// DiskUsage is what all below dir takes up on the disk, in bytes. A folder that is not
// there takes up nothing.
func DiskUsage(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err == nil && (st.Nlink == 1 || st.Mode&unix.S_IFMT == unix.S_IFDIR) {
			total += st.Blocks * 512
		} else if err == nil {
			total += st.Blocks * 512 / int64(st.Nlink)
		}
		return nil
	})
	return total, err
}
