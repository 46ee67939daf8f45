package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

// PullOptions bound what a guest may send, and say from where to where.
type PullOptions struct {
	MaxFiles   int   // entries of all kinds; 0: DefaultMaxFiles
	MaxSize    int64 // bytes in all; 0: DefaultMaxSize
	Executable bool  // keep the execute bits of files

	From     string // folder or file in the guest, from the user's home or absolute; "": the shared folder
	To       string // folder of the host; "": data/mos-shared/<full-id>
	Checksum bool   // compare and verify by hash, not by size and time
	Delete   bool   // replace a folder of the host that no pull has made
	DryRun   bool   // say on Out what would be done, and do nothing
}

func (o *PullOptions) fill() {
	if o.MaxFiles == 0 {
		o.MaxFiles = DefaultMaxFiles
	}
	if o.MaxSize == 0 {
		o.MaxSize = DefaultMaxSize
	}
}

// Pull copies a folder of the guest, or one file, to a folder of the host, whose
// former content it replaces in one step once all is there. What the former
// content has from the same target in the same size and of the same time is taken from
// there. Files
// and folders come with their permission bits, without setuid, setgid and sticky
// bits, readable by the owner, and files without execute bits unless asked for;
// times are kept to the second, blocks of zeros become holes. What a hostile guest
// could mean harm with is left out; then all else is in place and the error is a
// *RefusedError. On any other error the former content stays; of much that came
// before it, a hidden folder is left, with which the next pull goes on.
func Pull(ctx context.Context, c *Conn, paths layout.Paths, s *ui.Streams, o PullOptions) (Summary, error) {
	started := time.Now()
	o.fill()
	dest, err := landing(paths, c.fullID, o)
	if err != nil {
		return Summary{}, err
	}
	unlock, err := paths.Lock(ctx, lockOf(dest), "pull "+c.fullID, func(holder string) {
		s.Step("waiting for %s", holder)
	})
	if err != nil {
		return Summary{}, err
	}
	defer unlock()
	if err := mayReplace(paths, dest, c.fullID, o); err != nil {
		return Summary{}, err
	}
	client, stop, err := c.files(ctx, 0)
	if err != nil {
		return Summary{}, causeOr(ctx, err)
	}
	defer stop()
	p := &puller{conn: c, streams: s, guest: client, options: o, paths: paths, fullID: c.fullID, dest: dest}
	if err := p.takeInventory(ctx); err != nil {
		return Summary{}, causeOr(ctx, c.fault(err))
	}
	if o.DryRun {
		return Summary{}, errors.Join(causeOr(ctx, c.fault(p.tell(ctx))), p.refused.err())
	}
	p.left.Store(o.MaxSize)
	p.progress = showProgress(s, "pulling "+c.fullID, p.bytes)
	defer p.progress.end()
	if err := p.land(ctx); err != nil {
		return Summary{}, causeOr(ctx, c.fault(err))
	}
	done := Summary{
		Files: int(p.copied.Load()), Folders: len(p.folders), Links: len(p.links),
		Same: p.same, Bytes: p.came.Load(), Took: time.Since(started),
	}
	return done, p.refused.err()
}

// landing returns the folder that a pull replaces: of a link, where that leads.
func landing(paths layout.Paths, fullID string, o PullOptions) (string, error) {
	dest := paths.Shared(fullID)
	if o.To != "" {
		var err error
		if dest, err = filepath.Abs(o.To); err != nil {
			return "", err
		}
	}
	if _, err := os.Readlink(dest); err == nil {
		at, err := filepath.EvalSymlinks(dest)
		if err != nil {
			return "", hint.Add(fmt.Errorf("follow the link %s: %w", dest, err), "make the folder that it leads to, or remove it")
		}
		dest = at
	}
	if dest == "/" {
		return "", errors.New("a pull cannot replace /")
	}
	return dest, nil
}

// mayReplace reports why a folder cannot be replaced: one that is not meros' own has to be
// empty, or from an earlier pull of the same target. The caller holds dest's lock.
func mayReplace(paths layout.Paths, dest, fullID string, o PullOptions) error {
	if isMount(dest) {
		return hint.Add(fmt.Errorf("something is mounted at %s, and a pull replaces a whole folder", dest), "name a folder in it: --to %s", filepath.Join(dest, fullID))
	}
	if dest == paths.Shared(fullID) {
		return nil
	}
	entries, err := os.ReadDir(dest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(entries) == 0 || o.Delete || origin(dest) == fullID:
		return nil
	}
	err = fmt.Errorf("%s holds something that was not pulled from %s, and a pull replaces a whole folder", dest, fullID)
	return hint.Add(err, "name a folder that is not there yet, or give --delete to have it replaced")
}

// isMount reports whether a folder is where something is mounted, as statx(2) tells from
// Linux 5.8 on.
func isMount(dir string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// markOrigin marks an open file or folder as pulled from a target; not every file system
// takes attributes: then the error is ENOTSUP. Tests have one that does not.
var markOrigin = func(fd int, fullID string) error { return unix.Fsetxattr(fd, originAttr, []byte(fullID), 0) }

// origin returns from which target a file or folder was pulled, if any.
func origin(file string) string {
	buf := make([]byte, 256)
	n, err := unix.Getxattr(file, originAttr, buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// puller copies an inventory to a fresh folder.
type puller struct {
	inventory
	conn    *Conn
	streams *ui.Streams
	guest   *sftp.Client
	from    string
	options PullOptions
	paths   layout.Paths
	fullID  string
	dest    string

	root     *os.Root     // the fresh folder
	stale    *os.Root     // what a pull that broke off has left; may be nil
	former   *os.Root     // the former content; may be nil
	left     atomic.Int64 // bytes that may still come
	came     atomic.Int64 // bytes that came
	copied   atomic.Int64 // files
	same     int
	progress *progress
}

// keptFrom is from how many bytes on what came is kept when the rest did not.
const keptFrom = 8 << 20

// land copies everything to a fresh folder and swaps that in.
func (p *puller) land(ctx context.Context) (err error) {
	fresh, stale, err := freshDir(p.paths, p.dest, p.fullID)
	if err != nil {
		return localFault{err}
	}
	if p.root, err = os.OpenRoot(fresh); err != nil {
		return localFault{errors.Join(err, removeTree(fresh))}
	}
	defer p.root.Close()
	stop, err := p.openOld(stale)
	if err != nil {
		return localFault{errors.Join(err, removeTree(fresh))}
	}
	defer stop()
	whole := false
	defer func() {
		if stale != "" {
			err = errors.Join(err, removeTree(stale))
		}
		if !whole && p.came.Load() >= keptFrom {
			p.streams.Warn("what came is kept: the same pull goes on with it")
			return
		}
		err = errors.Join(err, removeTree(fresh))
	}()
	if err := p.fill(ctx); err != nil {
		return err
	}
	if err := p.markFolder("."); errors.Is(err, unix.ENOTSUP) { // then nothing in it is either
		p.streams.Warn("what came is not marked as from %s: the file system of %s takes no %s", p.fullID, p.dest, originAttr)
	} else if err != nil {
		return localFault{err}
	}
	if err := p.paths.Owner.Give(fresh); err != nil {
		return localFault{err}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := swap(fresh, p.dest); err != nil {
		_ = os.Lchown(fresh, os.Geteuid(), os.Getegid()) // else it would not be taken for ours
		return err
	}
	whole = true
	return nil
}

func (p *puller) fill(ctx context.Context) error {
	for _, f := range p.folders {
		if err := p.root.Mkdir(f.rel, 0o700); err != nil {
			return localFault{err}
		}
	}
	missing, err := p.reuse(ctx)
	if err != nil {
		return err
	}
	if missing, err = p.getArchive(ctx, missing); err != nil {
		return err
	}
	if err := each(ctx, missing, p.file); err != nil {
		return err
	}
	if p.options.Checksum {
		if err := p.verify(ctx); err != nil {
			return err
		}
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
