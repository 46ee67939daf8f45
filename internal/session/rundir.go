package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"meros/internal/layout"
)

// maxSocket is the longest path of a unix socket: unix(7), sun_path.
const maxSocket = 107

// runDir is the folder of the host in which a target's sockets and locks are
// while something uses it.
type runDir struct {
	paths  layout.Paths
	dir    string
	fullID string
}

func openRunDir(paths layout.Paths, fullID string, getenv func(string) string) (*runDir, error) {
	dir, err := paths.Runtime(getenv)
	if err != nil {
		return nil, err
	}
	return &runDir{paths, dir, fullID}, nil
}

func (r *runDir) file(kind string) string { return filepath.Join(r.dir, r.fullID+"."+kind) }

// user is for whom the files are.
func (r *runDir) user() int {
	if r.paths.Owner != (layout.Owner{}) {
		return r.paths.Owner.UID
	}
	return os.Geteuid()
}

// listen makes a socket that only its owner can use. A socket that is there is
// replaced: the caller holds a lock that says nobody serves it.
func (r *runDir) listen(kind string) (*net.UnixListener, error) {
	file := r.file(kind)
	if len(file) > maxSocket {
		return nil, fmt.Errorf("the path of the socket %s has more than %d bytes", file, maxSocket)
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// The folder keeps others out until the mode is set.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: file, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chmod(file, 0o600), r.paths.Owner.Give(file)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// hold is a lock on one of its files.
type hold struct{ f *os.File }

// lockPoll is how often a lock that is awaited is tried.
const lockPoll = 100 * time.Millisecond

// lock waits for a lock, shared by many (unix.LOCK_SH) or by itself
// (unix.LOCK_EX).
func (r *runDir) lock(ctx context.Context, kind string, how int) (*hold, error) {
	return poll(ctx, func() (*hold, error) { return r.tryLock(kind, how) })
}

// poll tries until it has a lock.
func poll(ctx context.Context, try func() (*hold, error)) (*hold, error) {
	for {
		h, err := try()
		if h != nil || err != nil {
			return h, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}

// tryLock returns nil without an error when another holds it.
func (r *runDir) tryLock(kind string, how int) (*hold, error) {
	f, err := os.OpenFile(r.file(kind), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, f.Close()
	case err != nil:
		return nil, errors.Join(err, f.Close())
	case !sameFile(f, r.file(kind)): // removed by one that was the last to use it
		return nil, f.Close()
	}
	return &hold{f}, nil
}

func sameFile(f *os.File, path string) bool {
	a, errA := f.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// last reports whether no other shares the lock, and then holds it alone.
func (h *hold) last() bool { return unix.Flock(int(h.f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil }

// share lets others share a lock that was held alone. It is never free in between.
func (h *hold) share() error { return unix.Flock(int(h.f.Fd()), unix.LOCK_SH|unix.LOCK_NB) }

func (h *hold) release() { _ = h.f.Close() }

// tidy removes files of these kinds, and the folder when it is empty. The caller
// holds the locks among them.
func (r *runDir) tidy(kinds ...string) {
	for _, kind := range kinds {
		_ = os.Remove(r.file(kind))
	}
	_ = os.Remove(r.dir)
}
