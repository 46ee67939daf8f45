package session

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"meros/internal/ui"
)

// packScript has a guest with GNU tar pack the files that its input names, after
// a mark by which one sees that it does.
const packScript = `case $(tar --version 2>/dev/null) in *"GNU tar"*) ;; *) exit 127 ;; esac
cd "$1" && printf %s "$2" && exec tar -c -f - --format=gnu --sparse --no-recursion --hard-dereference --ignore-failed-read --null --verbatim-files-from -T -`

// entryRoom is what an entry of an archive takes beside its file, with room for a
// long name and a map of holes.
const entryRoom = 64 << 10

const packMark = "meros-archive\n"

// getArchive gets files in one archive where that is worth it and the guest can.
// It returns those that have to be got one by one. An archive is a guest's: it
// fills files of the inventory with bytes, and decides nothing else.
func (p *puller) getArchive(ctx context.Context, files []remote) (missing []remote, err error) {
	wanted := map[string]remote{}
	var names []string
	for _, r := range files {
		if p.stale == nil || regular(p.stale, r.rel) == nil { // else it is gone on with
			wanted[r.rel] = r
			names = append(names, r.rel)
		}
	}
	if len(names) < archiveFrom {
		return files, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		argv := []string{"sh", "-c", packScript, "meros", fromHere(p.from), packMark}
		err := Exec(ctx, p.conn, &ui.Streams{In: nameList(names), Out: w, Err: io.Discard}, argv, ExecOptions{})
		w.CloseWithError(err)
		ended <- err
	}()
	err = p.unpack(ctx, r, wanted)
	_ = r.Close()
	cancel(errUnpacked)
	execErr := <-ended
	if err == nil && errors.Is(execErr, ErrLost) {
		err = execErr
	}
	for _, f := range files {
		_, left := wanted[f.rel]
		if left || p.stale != nil && regular(p.root, f.rel) == nil {
			missing = append(missing, f)
		}
	}
	return missing, err
}

var errUnpacked = errors.New("the archive was read")

// unpack takes from an archive what is wanted, and off that list. What is not in
// it, or breaks off, stays wanted.
func (p *puller) unpack(ctx context.Context, r io.Reader, wanted map[string]remote) error {
	mark := make([]byte, len(packMark))
	if _, err := io.ReadFull(r, mark); err != nil || string(mark) != packMark {
		return nil // it has no such tar
	}
	// An archive without end that holds nothing wanted ends here.
	t := tar.NewReader(io.LimitReader(r, p.left.Load()+int64(len(wanted)+1)*entryRoom))
	for {
		h, err := t.Next()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return nil // SFTP gets what is left, or says why not
		}
		rel := path.Clean(strings.TrimPrefix(h.Name, "./"))
		f, asked := wanted[rel]
		regular := h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeGNUSparse
		if !asked || !regular {
			continue
		}
		whole, err := p.unpackFile(t, f)
		if err != nil {
			return err
		}
		if !whole {
			return nil
		}
		delete(wanted, rel)
	}
}

// unpackFile writes one file. One that breaks off is removed again.
func (p *puller) unpackFile(t *tar.Reader, r remote) (whole bool, err error) {
	dst, err := p.root.OpenFile(r.rel, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return false, localFault{err}
	}
	defer dst.Close()
	holey := &sparseWriter{f: dst}
	n, err := io.Copy(counted{holey, p.allow}, t)
	if _, ours := errors.AsType[localFault](err); ours {
		return false, err
	}
	if err != nil || n < r.size {
		p.left.Add(n)
		return false, local(p.root.Remove(r.rel))
	}
	p.copied.Add(1)
	return true, local(errors.Join(holey.finish(), p.finish(dst, r)))
}

func linkAt(from, to int, name string) error { return unix.Linkat(from, name, to, name, 0) }

func renameAt(from, to int, name string) error { return unix.Renameat(from, name, to, name) }
