package session

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/pkg/sftp"
)

const (
	// chunkSize is how much of a large file is sent at a time by one of those that
	// send it, so that several connections share it.
	chunkSize = 4 * largePacketSize
	// chunksAhead is how many chunks each connection has under way.
	chunksAhead = 2
	// lanesFrom is from how many bytes on one more connection is worth its login.
	lanesFrom = 32 << 20
	// maxLanes is over how many connections a large file is sent. A guest decrypts
	// each by one processor.
	maxLanes = 2
)

// sendLarge sends files one after the other, each over several connections where
// that helps.
func (p *pusher) sendLarge(ctx context.Context, files []sent) error {
	total := int64(0)
	for _, f := range files {
		total += f.size
	}
	lanes := []*sftp.Client{p.guest}
	for total >= lanesFrom && p.options.Dial != nil && len(lanes) < maxLanes {
		more, err := p.options.Dial(ctx)
		if err != nil {
			break // one does as well
		}
		defer more.Close()
		client, stop, err := more.files(ctx, 0)
		if err != nil {
			break
		}
		defer stop()
		lanes = append(lanes, client)
	}
	for _, f := range files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := p.large(ctx, f, lanes); err != nil {
			return fmt.Errorf("send %s: %w", f.rel, err)
		}
	}
	return nil
}

// partialOf names the part of a file that has been sent, by all that makes it
// that file.
func (p *pusher) partialOf(s sent) string {
	key := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%d", s.rel, s.size, s.mtime.UnixNano()))
	return path.Join(p.to, path.Dir(s.rel), fmt.Sprintf(".meros-%x.partial", key[:8]))
}

func (p *pusher) large(ctx context.Context, s sent, lanes []*sftp.Client) error {
	src, err := p.open(s.file)
	if err != nil {
		return err
	}
	defer src.Close()
	partial := p.partialOf(s)
	from := p.resumeAt(ctx, src, partial, s)
	p.sentBytes(int(from))
	p.moved.Add(-from) // it was sent before
	if from == 0 {
		if err := p.guest.Remove(partial); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	p.note(partial, from > 0)
	if err := p.writeChunks(ctx, src, partial, s, from, lanes); err != nil {
		return err
	}
	if err := p.guest.Chtimes(partial, s.mtime, s.mtime); err != nil {
		return err
	}
	return p.whole(partial, s.rel)
}

// resumeAt returns how many bytes of a file an earlier push has brought, as a hash
// of them shows.
func (p *pusher) resumeAt(ctx context.Context, src source, partial string, s sent) int64 {
	info, err := p.guest.Lstat(partial)
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	// What is under way at once may have come in any order.
	n := min(info.Size(), s.size) - maxLanes*chunksAhead*chunkSize
	if n <= 0 || !p.conn.samePrefix(ctx, partial, io.NewSectionReader(src, 0, n), n) {
		return 0
	}
	p.streams.Step("%s: %s are there already", s.rel, bytesOf(n))
	return n
}

func (p *pusher) writeChunks(ctx context.Context, src source, partial string, s sent, from int64, lanes []*sftp.Client) (err error) {
	flags := os.O_WRONLY | os.O_CREATE
	if from == 0 {
		flags |= os.O_EXCL
	}
	var handles []*sftp.File
	defer func() {
		for _, h := range handles {
			err = errors.Join(err, h.Close())
		}
	}()
	for _, lane := range lanes {
		h, err := lane.OpenFile(partial, flags)
		if err != nil {
			return err
		}
		handles, flags = append(handles, h), os.O_WRONLY
	}
	if err := handles[0].Chmod(s.perm | 0o600); err != nil {
		return err
	}
	chunks := make(chan extent)
	workers := make([]*sftp.File, 0, len(handles)*chunksAhead)
	for range chunksAhead {
		workers = append(workers, handles...)
	}
	go feedChunks(ctx, chunks, inChunks(dataExtents(src, from, s.size), chunkSize))
	err = eachOf(ctx, workers, func(ctx context.Context, h *sftp.File) error {
		return p.writeSome(ctx, src, h, partial, chunks)
	})
	if err != nil {
		return err
	}
	if err := handles[0].Truncate(s.size); err != nil {
		return err
	}
	return handles[0].Chmod(s.perm)
}

func feedChunks(ctx context.Context, to chan<- extent, chunks []extent) {
	defer close(to)
	for _, c := range chunks {
		select {
		case to <- c:
		case <-ctx.Done():
			return
		}
	}
}

// writeSome writes chunks until there are no more.
func (p *pusher) writeSome(ctx context.Context, src source, dst *sftp.File, partial string, chunks <-chan extent) error {
	buf := make([]byte, chunkSize)
	for {
		var c extent
		var more bool
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case c, more = <-chunks:
		}
		if !more {
			return context.Cause(ctx)
		}
		b := buf[:c.till-c.from]
		if n, err := src.ReadAt(b, c.from); n < len(b) {
			return local(fmt.Errorf("it became shorter while it was read: %w", err))
		}
		if !allZero(b) {
			if _, err := dst.WriteAt(b, c.from); err != nil {
				return err
			}
		}
		p.sentBytes(len(b))
		if p.moved.Load() >= largeFile {
			p.note(partial, true)
		}
	}
}
