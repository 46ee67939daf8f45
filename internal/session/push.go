package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"

	"meros/internal/ui"
)

// cleanupGrace is how long an interrupted push may take to remove its partial
// files from the guest.
const cleanupGrace = 5 * time.Second

// PushOptions say where files go, and how.
type PushOptions struct {
	To       string // folder in the guest, from the user's home or absolute; "": the shared folder
	Checksum bool   // compare and verify by hash, not by size and time
	Delete   bool   // remove from folders in the guest what they have not here
	DryRun   bool   // say on Out what would be done, and do nothing

	// Dial opens one more connection, which a large file is worth; may be nil.
	Dial func(ctx context.Context) (*Conn, error)
}

// Push copies files and whole folders to a folder of the guest, which is made if
// it is not there, and says where to. What has the same name there is replaced if
// it differs in size or time, folders are merged. Permission bits are kept, times
// to the second, links in folders as links, holes as holes. Everything local is
// checked before anything is sent. A file appears in the guest when it is whole:
// an error or the end of ctx leaves whole files and folders, and hidden parts of a
// large file or of many files, with which the same push goes on; a push that comes a
// day later or more removes them.
func Push(ctx context.Context, c *Conn, s *ui.Streams, named []string, o PushOptions) (done Summary, where string, err error) {
	parcel, err := pack(ctx, named)
	if err != nil {
		return Summary{}, "", err
	}
	return push(ctx, c, s, parcel, o)
}

func push(ctx context.Context, c *Conn, s *ui.Streams, parcel *parcel, o PushOptions) (done Summary, where string, err error) {
	started := time.Now()
	dir, label, err := homeDir(o.To, c.shared)
	if err != nil {
		return Summary{}, "", err
	}
	client, stop, err := c.files(ctx, cleanupGrace)
	if err != nil {
		return Summary{}, "", causeOr(ctx, err)
	}
	defer stop()
	p := &pusher{
		parcel: parcel, options: o, conn: c, streams: s, guest: client, to: dir,
		partial: map[string]bool{}, fresh: map[string]bool{}, run: runName(),
	}
	_, p.replaces = client.HasExtension("posix-rename@openssh.com")
	if err := p.deliver(ctx); err != nil {
		p.cleanUp()
		return Summary{}, "", causeOr(ctx, c.fault(err))
	}
	done = Summary{
		Files: len(p.send) - p.resumed, Folders: len(p.folders), Links: len(p.sendLinks), Bytes: p.moved.Load(),
		Same: p.same + p.resumed, Took: time.Since(started),
	}
	if o.Delete {
		done.Deleted = len(p.gone)
	}
	return done, c.fullID + ":" + label, nil
}

// runName makes the names of one call's partial files its own.
func runName() string { return rand.Text()[:8] }

// pusher sends a parcel.
type pusher struct {
	*parcel
	options  PushOptions
	conn     *Conn
	streams  *ui.Streams
	guest    *sftp.Client
	to       string
	run      string // makes the names of partial files this call's own
	replaces bool   // whether the guest's rename replaces a file

	there     map[string]listed // what the guest has, by path
	fresh     map[string]bool   // folders that it has not
	send      []sent            // files that differ
	sendLinks []sent
	redress   []sent // files of which only mode and time differ
	gone      []string
	partials  []string // folders with what pushes have not finished
	same      int
	archived  int // files that were written into an archive
	resumed   int // files that an earlier push had sent

	mu      sync.Mutex
	partial map[string]bool // files in the guest that are not whole; true: to be kept

	count    atomic.Int64
	moved    atomic.Int64 // bytes
	progress *progress
}

func (p *pusher) deliver(ctx context.Context) error {
	if err := p.look(ctx); err != nil {
		return err
	}
	if err := p.plan(ctx); err != nil {
		return err
	}
	if p.options.DryRun {
		return p.tell()
	}
	total := int64(0)
	for _, f := range p.send {
		total += f.size
	}
	p.progress = showProgress(p.streams, "pushing to "+p.conn.fullID, total)
	defer p.progress.end()
	if err := p.guest.MkdirAll(p.to); err != nil {
		return fmt.Errorf("make %s: %w", p.to, err)
	}
	if err := p.sweep(ctx); err != nil {
		return err
	}
	if err := p.sendFiles(ctx); err != nil {
		return err
	}
	if err := each(ctx, p.sendLinks, p.link); err != nil {
		return err
	}
	if err := p.finish(ctx); err != nil {
		return err
	}
	if p.options.Checksum {
		return p.verify(ctx)
	}
	return nil
}

// tell says what would be done.
func (p *pusher) tell() error {
	var b strings.Builder
	for _, f := range p.folders {
		if p.fresh[f.rel] {
			fmt.Fprintf(&b, "make %s/\n", inLine(f.rel))
		}
	}
	for _, f := range append(p.send, p.sendLinks...) {
		fmt.Fprintf(&b, "send %s\n", inLine(f.rel))
	}
	if p.options.Delete {
		for _, rel := range p.gone {
			fmt.Fprintf(&b, "delete %s\n", inLine(rel))
		}
	}
	_, err := io.WriteString(p.streams.Out, b.String())
	return local(err)
}

// finish removes what is to be gone, and gives files that are there and folders
// their modes and times: what is in a folder changes that.
func (p *pusher) finish(ctx context.Context) error {
	if p.options.Delete && len(p.gone) > 0 {
		if _, err := p.conn.run(ctx, nameList(p.gone), 0, removeScript, fromHere(p.to)); err != nil {
			return fmt.Errorf("delete in %s: %w", p.to, err)
		}
	}
	byDepth := map[int][]sent{0: p.redress}
	deepest := 0
	for _, f := range p.folders {
		depth := strings.Count(f.rel, "/") + 1
		byDepth[depth], deepest = append(byDepth[depth], f), max(deepest, depth)
	}
	for depth := deepest; depth >= 0; depth-- {
		if err := each(ctx, byDepth[depth], p.dress); err != nil {
			return err
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

func (p *pusher) dress(_ context.Context, s sent) error {
	file := path.Join(p.to, s.rel)
	if err := errors.Join(p.guest.Chmod(file, s.perm), p.guest.Chtimes(file, s.mtime, s.mtime)); err != nil {
		return fmt.Errorf("set mode and time of %s: %w", s.rel, err)
	}
	return nil
}

// newPartial names a file in the guest that is removed unless it becomes whole.
func (p *pusher) newPartial(rel string) string {
	name := fmt.Sprintf(".meros-%s-%d.partial", p.run, p.count.Add(1))
	partial := path.Join(p.to, path.Dir(rel), name)
	p.note(partial, false)
	return partial
}

func (p *pusher) note(partial string, keep bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.partial[partial] = keep
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
	for partial, keep := range p.partial {
		if keep {
			p.streams.Warn("a part of %s stays in %s: the same push goes on with it", path.Dir(partial)+"/…", p.conn.fullID)
			continue
		}
		if err := p.guest.Remove(partial); errors.Is(err, sftp.ErrSSHFxConnectionLost) {
			return
		}
	}
}

func (p *pusher) file(ctx context.Context, s sent) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	src, err := p.open(s.file)
	if err != nil {
		return err
	}
	defer src.Close()
	partial := p.newPartial(s.rel)
	if err := p.copyIn(ctx, src, partial, s); err != nil {
		return fmt.Errorf("send %s: %w", s.rel, err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
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
	concurrency := requestsPerFile
	if s.size >= 0 { // no more than there was: a guest's file may have no end
		concurrency = int(min(s.size/packetSize+1, requestsPerFile))
		src = io.LimitReader(src, s.size)
	}
	n, err := dst.ReadFromWithConcurrency(outgoing{ctx, src, p}, concurrency)
	if err == nil && n < s.size {
		err = localFault{becameShorter(n, s.size)}
	}
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

// count counts bytes that are on their way.
func (p *pusher) sentBytes(n int) {
	p.moved.Add(int64(n))
	p.progress.moved(n)
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
	if o.ctx.Err() != nil { // its end may be that of a program which the same Ctrl-C ended
		return 0, context.Cause(o.ctx)
	}
	o.p.sentBytes(n)
	if err != nil && err != io.EOF {
		err = localFault{err}
	}
	return n, err
}
