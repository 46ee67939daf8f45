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

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"

	"meros/internal/layout"
)

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
	if err := p.mark(fd, r.rel); err != nil && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
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

func (p *puller) mark(fd int, rel string) error {
	if err := markOrigin(fd, p.fullID); err != nil {
		return fmt.Errorf("mark %s as from %s: %w", shown(rel), p.fullID, err)
	}
	return nil
}

func (p *puller) markFolder(rel string) error {
	dir, err := p.root.Open(rel)
	if err != nil {
		return err
	}
	defer dir.Close()
	return p.mark(int(dir.Fd()), rel)
}

func (p *puller) folder(r remote) error {
	if err := p.markFolder(r.rel); err != nil && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
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
