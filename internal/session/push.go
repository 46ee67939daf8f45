package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"

	"meros/internal/ui"
)

// cleanupGrace is how long an interrupted push may take to remove its partial
// files from the guest.
const cleanupGrace = 5 * time.Second

// PushOptions say where files go.
type PushOptions struct {
	To string // folder in the guest, from the user's home or absolute; "": the shared folder
}

// Push copies files and whole folders to a folder of the guest, which is made if
// it is not there, and says where to. What has the same name there is replaced,
// folders are merged. Permission bits are kept, times to the second, links in
// folders as links. Everything local is checked before anything is sent. A file
// appears in the guest when it is whole: an error or the end of ctx leaves whole
// files and folders, no part of one.
func Push(ctx context.Context, c *Conn, s *ui.Streams, named []string, o PushOptions) (done Summary, where string, err error) {
	started := time.Now()
	dir, label, err := homeDir(o.To, c.shared)
	if err != nil {
		return Summary{}, "", err
	}
	parcel, err := pack(ctx, named)
	if err != nil {
		return Summary{}, "", err
	}
	client, stop, err := c.files(ctx, cleanupGrace)
	if err != nil {
		return Summary{}, "", causeOr(ctx, err)
	}
	defer stop()
	p := pusher{parcel: parcel, guest: client, to: dir, partial: map[string]bool{}, run: rand.Text()[:8]}
	_, p.replaces = client.HasExtension("posix-rename@openssh.com")
	p.progress = showProgress(s, "pushing to "+c.fullID, p.bytes)
	defer p.progress.end()
	if err := p.send(ctx); err != nil {
		p.cleanUp()
		return Summary{}, "", causeOr(ctx, c.fault(err))
	}
	done = Summary{len(p.files), len(p.folders), len(p.links), p.moved.Load(), time.Since(started)}
	return done, c.fullID + ":" + label, nil
}

// pusher sends a parcel.
type pusher struct {
	*parcel
	guest    *sftp.Client
	to       string
	run      string // makes the names of partial files this call's own
	replaces bool   // whether the guest's rename replaces a file

	mu      sync.Mutex
	partial map[string]bool // files in the guest that are not whole

	count    atomic.Int64
	moved    atomic.Int64 // bytes
	progress *progress
}

func (p *pusher) send(ctx context.Context) error {
	if err := p.guest.MkdirAll(p.to); err != nil {
		return fmt.Errorf("make %s: %w", p.to, err)
	}
	for _, f := range p.folders {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := p.makeDir(path.Join(p.to, f.rel)); err != nil {
			return fmt.Errorf("make %s: %w", f.rel, err)
		}
	}
	if err := each(ctx, p.files, p.file); err != nil {
		return err
	}
	if err := each(ctx, p.links, p.link); err != nil {
		return err
	}
	for i := len(p.folders) - 1; i >= 0; i-- { // what is in a folder changes its time
		f := p.folders[i]
		if err := p.dress(path.Join(p.to, f.rel), f); err != nil {
			return fmt.Errorf("set mode and time of %s: %w", f.rel, err)
		}
	}
	return nil
}

// makeDir makes a folder. One that is there already is opened up to its owner.
func (p *pusher) makeDir(dir string) error {
	err := p.guest.Mkdir(dir)
	if err == nil {
		return nil
	}
	info, statErr := p.guest.Stat(dir)
	switch {
	case statErr != nil:
		return err
	case !info.IsDir():
		return errors.New("a file of that name is in the way")
	case info.Mode().Perm()&0o700 != 0o700:
		return p.guest.Chmod(dir, info.Mode().Perm()|0o700)
	}
	return nil
}

func (p *pusher) dress(file string, s sent) error {
	return errors.Join(p.guest.Chmod(file, s.perm), p.guest.Chtimes(file, s.mtime, s.mtime))
}

// newPartial names a file in the guest that is removed unless it becomes whole.
func (p *pusher) newPartial(rel string) string {
	name := fmt.Sprintf(".meros-%s-%d.partial", p.run, p.count.Add(1))
	partial := path.Join(p.to, path.Dir(rel), name)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.partial[partial] = true
	return partial
}

// whole puts a partial file in its place.
func (p *pusher) whole(partial, rel string) error {
	at := path.Join(p.to, rel)
	rename := p.guest.PosixRename
	if !p.replaces {
		rename = p.guest.Rename
		if err := p.guest.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := rename(partial, at); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.partial, partial)
	return nil
}

func (p *pusher) cleanUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for partial := range p.partial {
		if err := p.guest.Remove(partial); errors.Is(err, sftp.ErrSSHFxConnectionLost) {
			return
		}
	}
}

func (p *pusher) file(ctx context.Context, s sent) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	src, err := os.Open(s.file)
	if err != nil {
		return localFault{err}
	}
	defer src.Close()
	partial := p.newPartial(s.rel)
	if err := p.copyIn(ctx, src, partial, s); err != nil {
		return fmt.Errorf("send %s: %w", s.rel, err)
	}
	if err := p.whole(partial, s.rel); err != nil {
		return fmt.Errorf("put %s in place: %w", s.rel, err)
	}
	return nil
}

func (p *pusher) copyIn(ctx context.Context, src io.Reader, partial string, s sent) error {
	dst, err := p.guest.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	if err := dst.Chmod(s.perm); err != nil { // before there is anything to read
		return errors.Join(err, dst.Close())
	}
	concurrency := int(min(s.size/packetSize+1, requestsPerFile))
	_, err = dst.ReadFromWithConcurrency(outgoing{ctx, src, p}, concurrency)
	if err := errors.Join(err, dst.Close()); err != nil {
		return err
	}
	return p.guest.Chtimes(partial, s.mtime, s.mtime)
}

func (p *pusher) link(ctx context.Context, s sent) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	partial := p.newPartial(s.rel)
	if err := p.guest.Symlink(s.target, partial); err != nil {
		return fmt.Errorf("send link %s: %w", s.rel, err)
	}
	if err := p.whole(partial, s.rel); err != nil {
		return fmt.Errorf("put link %s in place: %w", s.rel, err)
	}
	return nil
}

// outgoing is a file on its way: it is counted, and ends with ctx.
type outgoing struct {
	ctx context.Context
	r   io.Reader
	p   *pusher
}

// Read implements io.Reader.
func (o outgoing) Read(b []byte) (int, error) {
	if o.ctx.Err() != nil {
		return 0, context.Cause(o.ctx)
	}
	n, err := o.r.Read(b)
	o.p.moved.Add(int64(n))
	o.p.progress.moved(n)
	if err != nil && err != io.EOF {
		err = localFault{err}
	}
	return n, err
}
