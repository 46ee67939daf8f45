package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"

	"meros/internal/hint"
	"meros/internal/layout"
	"meros/internal/ui"
)

// The default limits of a pull: above any exchange of files by a person, and
// below what fills a host's disk or memory.
const (
	DefaultMaxFiles = 100_000
	DefaultMaxSize  = 16 << 30 // bytes
)

// originAttr marks what came from a guest: its value is the target's full id.
const originAttr = "user.meros.origin"

// PullOptions bound what a guest may send.
type PullOptions struct {
	MaxFiles   int   // entries of all kinds; 0: DefaultMaxFiles
	MaxSize    int64 // bytes in all; 0: DefaultMaxSize
	Executable bool  // keep the execute bits of files
}

// Pull copies all of the guest's shared folder to data/mos-shared/<full-id>,
// whose former content it replaces in one step once all is there. Files and
// folders come with their permission bits, without setuid, setgid and sticky
// bits, readable by the owner, and files without execute bits unless asked for;
// times are kept to the second. What a hostile guest could mean harm with is
// left out; then all else is in place and the error is a *RefusedError. On any
// other error the former content stays.
func Pull(ctx context.Context, c *Conn, paths layout.Paths, s *ui.Streams, o PullOptions) (Summary, error) {
	started := time.Now()
	if o.MaxFiles == 0 {
		o.MaxFiles = DefaultMaxFiles
	}
	if o.MaxSize == 0 {
		o.MaxSize = DefaultMaxSize
	}
	unlock, err := paths.Lock(ctx, "pull-"+c.fullID, "pull "+c.fullID, func(holder string) {
		s.Step("waiting for %s", holder)
	})
	if err != nil {
		return Summary{}, err
	}
	defer unlock()
	client, stop, err := c.files(ctx, 0)
	if err != nil {
		return Summary{}, causeOr(ctx, err)
	}
	defer stop()
	p := puller{guest: client, from: path.Clean(c.shared), options: o, paths: paths, fullID: c.fullID}
	if err := p.takeInventory(ctx, c); err != nil {
		return Summary{}, causeOr(ctx, c.fault(err))
	}
	p.left.Store(o.MaxSize)
	p.progress = showProgress(s, "pulling "+c.fullID, p.bytes)
	defer p.progress.end()
	if err := p.land(ctx); err != nil {
		return Summary{}, causeOr(ctx, c.fault(err))
	}
	done := Summary{int(p.copied.Load()), len(p.folders), len(p.links), o.MaxSize - p.left.Load(), time.Since(started)}
	return done, p.refused.err()
}

// puller copies an inventory to a fresh folder.
type puller struct {
	inventory
	guest   *sftp.Client
	from    string
	options PullOptions
	paths   layout.Paths
	fullID  string

	root     *os.Root
	left     atomic.Int64 // bytes that may still come
	copied   atomic.Int64 // files
	progress *progress
}

func (p *puller) takeInventory(ctx context.Context, c *Conn) error {
	l, err := newLister(c.client)
	if err != nil {
		return noSFTP(err)
	}
	defer l.Close()
	w := walker{lister: l, base: p.from, limits: p.options}
	err = w.walk(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return hint.Add(fmt.Errorf("the guest has no folder ~/%s", p.from), "make it in the guest, or push something first")
	}
	if err != nil {
		return err
	}
	if err := w.readLinks(ctx); err != nil {
		return err
	}
	p.folders, p.files, p.links, p.bytes = w.folders, w.files, w.links, w.bytes
	p.refused.RefusedError = w.refused.RefusedError
	return nil
}

// land copies everything to a fresh folder and swaps that in.
func (p *puller) land(ctx context.Context) (err error) {
	dest := p.paths.Shared(p.fullID)
	fresh, err := freshDir(p.paths, dest)
	if err != nil {
		return localFault{err}
	}
	defer func() { err = errors.Join(err, removeTree(fresh)) }()
	if p.root, err = os.OpenRoot(fresh); err != nil {
		return localFault{err}
	}
	defer p.root.Close()
	if err := p.fill(ctx); err != nil {
		return err
	}
	if err := p.paths.Owner.Give(fresh); err != nil {
		return localFault{err}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return swap(fresh, dest)
}

func (p *puller) fill(ctx context.Context) error {
	for _, f := range p.folders {
		if err := p.root.Mkdir(f.rel, 0o700); err != nil {
			return localFault{err}
		}
	}
	if err := each(ctx, p.files, p.file); err != nil {
		return err
	}
	for _, l := range p.links {
		if err := p.link(l); err != nil {
			return localFault{err}
		}
	}
	for i := len(p.folders) - 1; i >= 0; i-- { // what is in a folder changes its time
		if err := p.folder(p.folders[i]); err != nil {
			return localFault{err}
		}
	}
	return nil
}

// file copies one file. A guest that does not hand it out, or hands out less
// than it claimed, has it refused.
func (p *puller) file(ctx context.Context, r remote) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	src, err := p.guest.Open(path.Join(p.from, r.rel))
	if guestSaysNo(err) {
		p.refused.add(r.rel, err)
		return nil
	}
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := p.root.OpenFile(r.rel, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return localFault{err}
	}
	defer dst.Close()
	n, err := copyOut(counted{dst, p.allow}, src, r.size)
	if err == nil && n < r.size {
		err = &statusError{fmt.Sprintf("ended after %d of %d bytes", n, r.size)}
	}
	if guestSaysNo(err) {
		p.refused.add(r.rel, err)
		return local(p.root.Remove(r.rel))
	}
	if err != nil {
		return err
	}
	p.copied.Add(1)
	return local(p.finish(dst, r))
}

// allow counts n bytes that came against the limit.
func (p *puller) allow(n int) error {
	if p.left.Add(-int64(n)) < 0 {
		return localFault{tooBig(p.options.MaxSize)}
	}
	p.progress.moved(n)
	return nil
}

// copyOut copies a file of the guest of about the claimed size. A small one
// takes two round trips.
func copyOut(dst io.Writer, src *sftp.File, claimed int64) (int64, error) {
	if claimed >= packetSize {
		return src.WriteTo(dst)
	}
	buf := make([]byte, claimed+1)
	n, err := src.ReadAt(buf, 0)
	if err == nil { // it is larger than claimed
		return src.WriteTo(dst)
	}
	if !errors.Is(err, io.EOF) {
		return 0, err
	}
	n, err = dst.Write(buf[:n])
	return int64(n), err
}

// finish gives a file that was copied its mark, owner, mode and time.
func (p *puller) finish(f *os.File, r remote) error {
	fd := int(f.Fd())
	_ = unix.Fsetxattr(fd, originAttr, []byte(p.fullID), 0) // not every file system can
	if o := p.paths.Owner; o != (layout.Owner{}) {
		if err := f.Chown(o.UID, o.GID); err != nil {
			return err
		}
	}
	mode := r.perm | 0o600
	if !p.options.Executable {
		mode &^= 0o111
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	when := unix.NsecToTimeval(r.mtime.UnixNano())
	return errors.Join(unix.Futimes(fd, []unix.Timeval{when, when}), f.Close())
}

func (p *puller) folder(r remote) error {
	if err := p.give(r.rel); err != nil {
		return err
	}
	if err := p.root.Chmod(r.rel, r.perm|0o700); err != nil {
		return err
	}
	return p.root.Chtimes(r.rel, r.mtime, r.mtime)
}

// link makes a link whose target was checked.
func (p *puller) link(r remote) error {
	if err := p.root.Symlink(r.target, r.rel); err != nil {
		return err
	}
	if err := p.give(r.rel); err != nil {
		return err
	}
	dir, err := p.root.Open(path.Dir(r.rel))
	if err != nil {
		return err
	}
	defer dir.Close()
	when := unix.NsecToTimespec(r.mtime.UnixNano())
	return unix.UtimesNanoAt(int(dir.Fd()), path.Base(r.rel), []unix.Timespec{when, when}, unix.AT_SYMLINK_NOFOLLOW)
}

func (p *puller) give(rel string) error {
	if p.paths.Owner == (layout.Owner{}) {
		return nil
	}
	return p.root.Lchown(rel, p.paths.Owner.UID, p.paths.Owner.GID)
}
