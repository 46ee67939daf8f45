package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
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
// content has in the same size and of the same time is taken from there. Files
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
	p := &puller{conn: c, streams: s, guest: client, options: o, paths: paths, fullID: c.fullID, dest: dest}
	if err := p.takeInventory(ctx); err != nil {
		return Summary{}, causeOr(ctx, c.fault(err))
	}
	if o.DryRun {
		return Summary{}, errors.Join(p.tell(), p.refused.err())
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

// landing returns the folder that a pull replaces. One that a person named has to
// be empty, or from an earlier pull of the same target.
func landing(paths layout.Paths, fullID string, o PullOptions) (string, error) {
	if o.To == "" {
		return paths.Shared(fullID), nil
	}
	dest, err := filepath.Abs(o.To)
	if err != nil {
		return "", err
	}
	if dest == "/" {
		return "", errors.New("a pull cannot replace /")
	}
	entries, err := os.ReadDir(dest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return dest, nil
	case err != nil:
		return "", err
	case len(entries) == 0 || o.Delete || origin(dest) == fullID:
		return dest, nil
	}
	err = fmt.Errorf("%s holds something that was not pulled from %s, and a pull replaces a whole folder", dest, fullID)
	return "", hint.Add(err, "name a folder that is not there yet, or give --delete to have it replaced")
}

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

func (p *puller) takeInventory(ctx context.Context) error {
	named, label, err := homeDir(p.options.From, p.conn.shared)
	if err != nil {
		return err
	}
	p.from = named
	l, err := newLister(p.conn.client)
	if err != nil {
		return noSFTP(err)
	}
	defer l.Close()
	w := walker{lister: l, base: p.from, limits: p.options}
	if p.isFile(l) {
		dir, name := path.Split(path.Clean(named))
		p.from, w.base = path.Clean(dir), path.Clean(dir)
		err = w.one(name)
	} else {
		err = w.walk(ctx)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return hint.Add(fmt.Errorf("the guest has no folder %s", strings.TrimSuffix(label, "/")), "make it in the guest, or push something first")
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

// isFile reports whether the person named a file and not a folder.
func (p *puller) isFile(l *lister) bool {
	if p.options.From == "" {
		return false
	}
	e, err := l.lstat(fxpStat, p.from)
	return err == nil && e.mode&syscall.S_IFMT == syscall.S_IFREG
}

// tell says what would be copied.
func (p *puller) tell() error {
	var b strings.Builder
	p.former, _ = os.OpenRoot(p.dest)
	if p.former != nil {
		defer p.former.Close()
	}
	for _, f := range p.files {
		if !isSame(p.former, f) {
			fmt.Fprintf(&b, "get %s\n", ui.Clean(f.rel))
		}
	}
	for _, l := range p.links {
		fmt.Fprintf(&b, "link %s\n", ui.Clean(l.rel))
	}
	for _, rel := range p.goes() {
		fmt.Fprintf(&b, "delete %s\n", ui.Clean(rel))
	}
	_, err := io.WriteString(p.streams.Out, b.String())
	return local(err)
}

// goes returns what the former content has and the guest has not.
func (p *puller) goes() []string {
	if p.former == nil {
		return nil
	}
	stays := map[string]bool{".": true}
	for _, all := range [][]remote{p.folders, p.files, p.links} {
		for _, r := range all {
			stays[r.rel] = true
		}
	}
	var gone []string
	_ = fs.WalkDir(p.former.FS(), ".", func(at string, d fs.DirEntry, err error) error {
		if err == nil && stays[at] {
			return nil
		}
		gone = append(gone, at)
		if d != nil && d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	return gone
}

// keptFrom is from how many bytes on what came is kept when the rest did not.
const keptFrom = 8 << 20

// land copies everything to a fresh folder and swaps that in.
func (p *puller) land(ctx context.Context) (err error) {
	stale := staleDir(p.dest)
	fresh, err := freshDir(p.paths, p.dest, stale)
	if err != nil {
		return localFault{err}
	}
	if p.root, err = os.OpenRoot(fresh); err != nil {
		return localFault{errors.Join(err, removeTree(fresh))}
	}
	defer p.root.Close()
	if stale != "" {
		if p.stale, err = os.OpenRoot(stale); err != nil {
			return localFault{err}
		}
		defer p.stale.Close()
	}
	if p.former, err = os.OpenRoot(p.dest); err == nil {
		defer p.former.Close()
	}
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
	_ = unix.Setxattr(fresh, originAttr, []byte(p.fullID), 0) // not every file system can
	if err := p.paths.Owner.Give(fresh); err != nil {
		return localFault{err}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	whole = true
	return swap(fresh, p.dest)
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
	dst, from, err := p.begin(ctx, r)
	if err != nil {
		return localFault{err}
	}
	defer dst.Close()
	if _, err := src.Seek(from, io.SeekStart); err != nil {
		return err
	}
	holey := &sparseWriter{f: dst, at: from, end: from}
	n, err := copyOut(counted{holey, p.allow}, src, r.size-from)
	n += from
	if err == nil && n < r.size {
		err = &statusError{fmt.Sprintf("ended after %d of %d bytes", n, r.size)}
	}
	if guestSaysNo(err) {
		p.refused.add(r.rel, err)
		return local(p.root.Remove(r.rel))
	}
	if err != nil {
		return errors.Join(err, local(holey.finish()))
	}
	p.copied.Add(1)
	return local(errors.Join(holey.finish(), p.finish(dst, r)))
}

// begin opens the file to be written, with as much of it as an earlier pull has
// left and the guest still has.
func (p *puller) begin(ctx context.Context, r remote) (dst *os.File, from int64, err error) {
	if p.stale != nil && r.size >= keptFrom {
		if n := p.goOn(ctx, r); n > 0 {
			dst, err = p.root.OpenFile(r.rel, os.O_RDWR, 0)
			return dst, n, err
		}
	}
	dst, err = p.root.OpenFile(r.rel, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	return dst, 0, err
}

// allow counts n bytes that came against the limit.
func (p *puller) allow(n int) error {
	if p.left.Add(-int64(n)) < 0 {
		return localFault{tooBig(p.options.MaxSize)}
	}
	p.came.Add(int64(n))
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
	n, err := io.ReadFull(src, buf)
	if err == nil { // it is larger than claimed
		return io.Copy(dst, io.MultiReader(bytes.NewReader(buf), src))
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
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
	if err := f.Chmod(p.mode(r)); err != nil {
		return err
	}
	when := unix.NsecToTimeval(r.mtime.UnixNano())
	return errors.Join(unix.Futimes(fd, []unix.Timeval{when, when}), f.Close())
}

// mode is the one that a file gets on the host.
func (p *puller) mode(r remote) fs.FileMode {
	if p.options.Executable {
		return r.perm | 0o600
	}
	return r.perm&^0o111 | 0o600
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
