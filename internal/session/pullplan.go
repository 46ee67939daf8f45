package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"meros/internal/hint"
)

func (p *puller) takeInventory(ctx context.Context) error {
	named, label, err := homeDir(p.options.From, p.conn.shared)
	if err != nil {
		return err
	}
	p.from = named
	l, err := newLister(ctx, p.conn, 0)
	if err != nil {
		return err
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

// tell says what would be done.
func (p *puller) tell(ctx context.Context) error {
	stale := ""
	if left := leftovers(p.dest, p.fullID); len(left) > 0 {
		stale = left[len(left)-1]
	}
	stop, err := p.openOld(stale)
	if err != nil {
		return localFault{err}
	}
	defer stop()
	theirs, err := p.hashesOfAlike(ctx)
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, f := range p.folders {
		if !p.hasFolder(f.rel) {
			fmt.Fprintf(&b, "make %s/\n", inLine(f.rel))
		}
	}
	for _, f := range p.files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !p.fits(p.stale, f, theirs) && !p.fits(p.former, f, theirs) {
			fmt.Fprintf(&b, "get %s\n", inLine(f.rel))
		}
	}
	for _, l := range p.links {
		if !p.hasLink(l) {
			fmt.Fprintf(&b, "link %s\n", inLine(l.rel))
		}
	}
	for _, rel := range p.goes() {
		fmt.Fprintf(&b, "delete %s\n", inLine(rel))
	}
	_, err = io.WriteString(p.streams.Out, b.String())
	return local(err)
}

// hasFolder and hasLink report what the former content has already.
func (p *puller) hasFolder(rel string) bool {
	if p.former == nil {
		return false
	}
	info, err := p.former.Lstat(rel)
	return err == nil && info.IsDir()
}

func (p *puller) hasLink(l remote) bool {
	if p.former == nil {
		return false
	}
	target, err := p.former.Readlink(l.rel)
	return err == nil && target == l.target
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
