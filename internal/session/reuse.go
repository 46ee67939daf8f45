package session

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"meros/internal/hint"
)

// openOld opens what the host has already: stale, unless that is "", and the former
// content, if there is any. Call stop.
func (p *puller) openOld(stale string) (stop func(), err error) {
	if stale != "" {
		if p.stale, err = os.OpenRoot(stale); err != nil {
			return nil, err
		}
	}
	p.former, _ = os.OpenRoot(p.dest)
	return func() {
		for _, root := range []*os.Root{p.stale, p.former} {
			if root != nil {
				_ = root.Close()
			}
		}
	}, nil
}

// hashesOfAlike returns what the guest tells of the files that the host has in the same
// size, if hashes are wanted.
func (p *puller) hashesOfAlike(ctx context.Context) (map[string]sum, error) {
	if !p.options.Checksum {
		return nil, nil
	}
	return p.conn.hashes(ctx, p.from, p.alike())
}

// reuse takes files that the host has already into the fresh folder: those of a
// pull that broke off are moved, those of the former content linked. It returns
// the ones that have to come from the guest.
func (p *puller) reuse(ctx context.Context) (missing []remote, err error) {
	theirs, err := p.hashesOfAlike(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range p.files {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !p.take(r, theirs) {
			missing = append(missing, r)
			continue
		}
		p.same++
		p.progress.moved(int(r.size))
	}
	return missing, nil
}

// alike returns the files that the host has in the same size.
func (p *puller) alike() []string {
	var names []string
	for _, r := range p.files {
		for _, from := range []*os.Root{p.stale, p.former} {
			if info := regular(from, r.rel); info != nil && info.Size() == r.size {
				names = append(names, r.rel)
				break
			}
		}
	}
	return names
}

// take moves or links one file into the fresh folder, if it is the same.
func (p *puller) take(r remote, theirs map[string]sum) bool {
	for _, from := range []*os.Root{p.stale, p.former} {
		if p.fits(from, r, theirs) && p.adopt(from, r) {
			return true
		}
	}
	return false
}

// fits reports whether a folder of the host has the file that the guest has. One of the
// former content has to be as a pull would leave it: it is shared with that.
func (p *puller) fits(from *os.Root, r remote, theirs map[string]sum) bool {
	same := isSame(from, r)
	if p.options.Checksum {
		same = isSameSum(from, r, theirs)
	}
	return same && (from == p.stale || regular(from, r.rel).Mode().Perm() == p.mode(r) && p.ours(from, r.rel))
}

// adopt puts a file of another folder of the host into the fresh one.
func (p *puller) adopt(from *os.Root, r remote) bool {
	if from == p.former {
		return linkBetween(from, p.root, r.rel) == nil
	}
	if err := renameBetween(from, p.root, r.rel); err != nil {
		return false
	}
	f, err := p.root.OpenFile(r.rel, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return p.finish(f, r) == nil
}

// ours reports whether a file was pulled from this target, as its mark says. Where no
// file can be marked, it is taken for that: neither would a new one be.
func (p *puller) ours(root *os.Root, rel string) bool {
	f, err := root.Open(rel)
	if err != nil {
		return false
	}
	defer f.Close()
	mark := make([]byte, 256)
	n, err := unix.Fgetxattr(int(f.Fd()), originAttr, mark)
	return errors.Is(err, unix.ENOTSUP) || err == nil && string(mark[:n]) == p.fullID
}

// regular returns what a root says of a file that is one, or nil.
func regular(root *os.Root, rel string) fs.FileInfo {
	if root == nil {
		return nil
	}
	info, err := root.Lstat(rel)
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	return info
}

// isSame reports whether a root has a file in the same size and of the same time.
func isSame(root *os.Root, r remote) bool {
	info := regular(root, r.rel)
	return info != nil && info.Size() == r.size && info.ModTime().Unix() == r.mtime.Unix()
}

// isSameSum reports whether a root has a file with the hash that the guest tells.
func isSameSum(root *os.Root, r remote, theirs map[string]sum) bool {
	want, told := theirs[r.rel]
	info := regular(root, r.rel)
	if !told || info == nil || info.Size() != r.size {
		return false
	}
	f, err := root.Open(r.rel)
	if err != nil {
		return false
	}
	defer f.Close()
	got, err := hashOf(f, -1)
	return err == nil && got == want
}

// linkBetween and renameBetween work on the same path in two roots: each in the
// folder that the root has opened, so that no link on the way leads elsewhere.
func linkBetween(from, to *os.Root, rel string) error {
	return between(from, to, rel, linkAt)
}

func renameBetween(from, to *os.Root, rel string) error {
	return between(from, to, rel, renameAt)
}

func between(from, to *os.Root, rel string, do func(fromFD, toFD int, name string) error) error {
	dir, name := filepath.Split(rel)
	a, err := from.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := to.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	defer b.Close()
	return do(int(a.Fd()), int(b.Fd()), name)
}

// goOn moves what an earlier pull has of a file into the fresh folder, and returns
// how many bytes that is, if the guest's file begins so.
func (p *puller) goOn(ctx context.Context, r remote) int64 {
	info := regular(p.stale, r.rel)
	if info == nil || info.Size() >= r.size || info.Size() < keptFrom {
		return 0
	}
	n := info.Size()
	f, err := p.stale.Open(r.rel)
	if err != nil {
		return 0
	}
	defer f.Close()
	if !p.conn.samePrefix(ctx, filepath.Join(p.from, r.rel), io.Reader(f), n) || renameBetween(p.stale, p.root, r.rel) != nil {
		return 0
	}
	p.streams.Step("%s: %s are here already", strconv.Quote(r.rel), bytesOf(n))
	p.progress.moved(int(n))
	p.left.Add(-n)
	return n
}

// verify compares what came with the hashes that the guest tells: against faults
// on the way, not against a guest that lies.
func (p *puller) verify(ctx context.Context) error {
	var names []string
	for _, r := range p.files {
		if regular(p.root, r.rel) != nil { // it was not refused
			names = append(names, r.rel)
		}
	}
	theirs, err := p.conn.hashes(ctx, p.from, names)
	if err != nil {
		return err
	}
	for _, rel := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		got, err := p.sumOf(rel)
		if err != nil {
			return localFault{err}
		}
		if want, told := theirs[rel]; !told || want != got {
			err := fmt.Errorf("%s has another hash in the guest than here, %s", shown(rel), hex.EncodeToString(got[:4]))
			return hint.Add(err, "did it change meanwhile? pull again")
		}
	}
	return nil
}

func (p *puller) sumOf(rel string) (sum, error) {
	f, err := p.root.Open(rel)
	if err != nil {
		return sum{}, err
	}
	defer f.Close()
	return hashOf(f, -1)
}
