package session

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"meros/internal/ui"
)

const (
	// largeFile is from how many bytes on a file is sent by itself: so that it can
	// be gone on with, and without its holes.
	largeFile = 8 << 20
	// archiveFrom is how many files and folders are worth a program in the guest,
	// which takes some 50 ms to start where it is emulated.
	archiveFrom = 12
)

// unpackScript has the guest unpack an archive into a folder of its own, in which the
// process says which it is. Where it has no tar, the status is that of a shell which
// finds no program.
const unpackScript = `command -v tar >/dev/null || exit 127; umask 077
mkdir -p -- "$1" && echo $$ >"$1/.meros-pid" && exec tar -x -p -o -f - -C "$1"`

// statusNotFound is a shell's, of a program that it does not find: POSIX XCU 2.8.2.
const statusNotFound = 127

// sendFiles sends what differs: small files and new folders in one archive where
// the guest can unpack it, which takes no round trip for each; large ones by
// themselves.
func (p *pusher) sendFiles(ctx context.Context) error {
	var small, large []sent
	for _, f := range p.send {
		if f.size >= largeFile || f.holes {
			large = append(large, f)
		} else {
			small = append(small, f)
		}
	}
	if len(small)+len(p.fresh) >= archiveFrom {
		done, err := p.sendArchive(ctx, small)
		if err != nil {
			return err
		}
		if done {
			small = nil
		}
	}
	for _, f := range p.folders {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if p.fresh[f.rel] || p.there[f.rel].mode&0o700 != 0o700 {
			if err := p.makeDir(path.Join(p.to, f.rel)); err != nil {
				return fmt.Errorf("make %s: %w", f.rel, err)
			}
		}
	}
	if err := each(ctx, small, p.file); err != nil {
		return err
	}
	return p.sendLarge(ctx, large)
}

// sendArchive sends files and all new folders in one archive to a folder beside
// the others, from where they are moved to their places. It reports whether the
// guest could.
func (p *pusher) sendArchive(ctx context.Context, files []sent) (done bool, err error) {
	stage := p.stage(p.run)
	whole, err := p.adoptStage(ctx, stage, files)
	if err != nil {
		return false, err
	}
	missing := slices.DeleteFunc(slices.Clone(files), func(f sent) bool { return whole[f.rel] })
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := p.archive(ctx, w, missing)
		w.CloseWithError(err)
		packed <- err
	}()
	says := &limited{left: 4 << 10}
	err = Exec(ctx, p.conn, &ui.Streams{In: r, Out: io.Discard, Err: says}, []string{"sh", "-c", unpackScript, "meros", stage}, ExecOptions{})
	_ = r.Close() // whatever has not been read
	packErr := <-packed
	exit, ran := errors.AsType[*ExitError](err)
	switch {
	case ran && exit.Code == statusNotFound:
		p.uncount()
		return false, nil
	case packErr != nil && !errors.Is(packErr, io.ErrClosedPipe):
		err = packErr
	case ran:
		err = fmt.Errorf("unpack in %s: the guest says: %s", p.to, oneLine(says.String()))
	}
	if err == nil {
		err = p.unstage(ctx, stage, files)
	}
	if err != nil && (p.archived >= keptFiles || p.moved.Load() >= largeFile) {
		p.streams.Warn("what came stays hidden in %s: the same push goes on with it", p.conn.fullID)
		return false, err
	}
	return err == nil, errors.Join(err, p.dropStage(ctx, stage))
}

// uncount forgets what was counted as sent.
func (p *pusher) uncount() { p.progress.moved(-int(p.moved.Swap(0))) }

// dropStage removes what is left of the folder that was unpacked to.
func (p *pusher) dropStage(ctx context.Context, stage string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupGrace)
	defer cancel()
	dir, name := path.Split(stage)
	_, err := p.conn.run(ctx, nameList([]string{name}), 0, removeScript, dir)
	return err
}

// unstage moves files and folders from where they were unpacked to their places.
func (p *pusher) unstage(ctx context.Context, stage string, files []sent) error {
	var moves []sent
	for _, f := range p.folders {
		if p.fresh[f.rel] && !p.fresh[path.Dir(f.rel)] {
			moves = append(moves, f)
		}
	}
	moved := moves
	for _, f := range files {
		if !p.fresh[path.Dir(f.rel)] {
			moves = append(moves, f)
		}
	}
	err := each(ctx, moves, func(_ context.Context, s sent) error {
		if err := p.whole(path.Join(stage, s.rel), s.rel); err != nil {
			return fmt.Errorf("put %s in place: %w", s.rel, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, f := range moved {
		p.made(f.rel)
	}
	return nil
}

// made takes note that a folder and those in it are there.
func (p *pusher) made(rel string) {
	for _, f := range p.folders {
		if f.rel == rel || strings.HasPrefix(f.rel, rel+"/") {
			delete(p.fresh, f.rel)
			p.there[f.rel] = listed{mode: 0o700}
		}
	}
}

// archive writes new folders and files in the form that every tar reads.
func (p *pusher) archive(ctx context.Context, w io.Writer, files []sent) error {
	buffered := bufio.NewWriterSize(w, 256<<10)
	t := tar.NewWriter(buffered)
	for _, f := range p.folders {
		if !p.fresh[f.rel] {
			continue
		}
		h := &tar.Header{Typeflag: tar.TypeDir, Name: f.rel + "/", Mode: 0o700, ModTime: f.mtime, Format: tar.FormatGNU}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
	}
	for _, f := range files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := p.archiveFile(ctx, t, f); err != nil {
			return fmt.Errorf("send %s: %w", f.rel, err)
		}
		p.archived++
	}
	return errors.Join(t.Close(), buffered.Flush())
}

func (p *pusher) archiveFile(ctx context.Context, t *tar.Writer, f sent) error {
	src, err := p.open(f.file)
	if err != nil {
		return err
	}
	defer src.Close()
	h := &tar.Header{Typeflag: tar.TypeReg, Name: f.rel, Size: f.size, Mode: int64(f.perm), ModTime: f.mtime, Format: tar.FormatGNU}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(t, io.LimitReader(outgoing{ctx, src, p}, f.size))
	if err == nil && n < f.size {
		err = becameShorter(n, f.size)
	}
	return local(err)
}

func becameShorter(n, size int64) error {
	return fmt.Errorf("it became shorter while it was read: %d of %d bytes", n, size)
}
