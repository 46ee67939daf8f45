package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"meros/internal/hint"
)

// maxSurvey is how many entries a guest may show of folders that are pushed to.
const maxSurvey = 10 * DefaultMaxFiles

// survey is what the guest has already where a parcel is to go.
type survey struct {
	*lister
	to       string
	ours     map[string]byte   // what the parcel has at a path: d, f or l
	there    map[string]listed // what the guest has there
	gone     []string          // what the guest has in folders of the parcel, and the parcel has not
	partials []string          // folders with what pushes have not finished
	entries  int

	wantGone bool // whether gone is wanted
}

// look surveys the guest.
func (p *pusher) look(ctx context.Context) error {
	l, err := newLister(ctx, p.conn, cleanupGrace)
	if err != nil {
		return err
	}
	defer l.Close()
	s := &survey{lister: l, to: p.to, ours: map[string]byte{}, there: map[string]listed{}, wantGone: p.options.Delete}
	for kind, all := range map[byte][]sent{'d': p.folders, 'f': p.files, 'l': p.links} {
		for _, e := range all {
			s.ours[e.rel] = kind
		}
	}
	if err := s.beside(ctx); err != nil {
		return err
	}
	for rel := range s.ours {
		if strings.Contains(rel, "/") {
			continue
		}
		e, err := s.lstat(fxpLstat, path.Join(s.to, rel))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at %s: %w", rel, err)
		}
		if err := s.found(ctx, rel, e); err != nil {
			return err
		}
	}
	p.there, p.gone, p.partials = s.there, s.gone, s.partials
	slices.Sort(p.gone)
	return nil
}

// beside looks for what pushes have left in the folder that is pushed to, which may not
// be there.
func (s *survey) beside(ctx context.Context) error {
	err := s.list(s.to, func(e listed) error { return s.count(ctx, s.to, e) })
	if guestSaysNo(err) {
		return nil
	}
	return err
}

// count counts an entry of a folder, and takes note of one that a push has left.
func (s *survey) count(ctx context.Context, dir string, e listed) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if s.entries++; s.entries > maxSurvey {
		return fmt.Errorf("the guest shows more than %d entries", maxSurvey)
	}
	if isPartial(e.name) && (len(s.partials) == 0 || s.partials[len(s.partials)-1] != dir) {
		s.partials = append(s.partials, dir)
	}
	return nil
}

// found takes note of an entry, and of what is in it.
func (s *survey) found(ctx context.Context, rel string, e listed) error {
	if s.ours[rel] == 'd' && e.mode&syscall.S_IFMT == syscall.S_IFLNK {
		// A link to a folder serves as the folder.
		if at, err := s.lstat(fxpStat, path.Join(s.to, rel)); err == nil {
			e.mode = at.mode
		}
	}
	s.there[rel] = e
	if s.ours[rel] != 'd' || e.mode&syscall.S_IFMT != syscall.S_IFDIR {
		return nil
	}
	return s.folder(ctx, rel)
}

func (s *survey) folder(ctx context.Context, rel string) error {
	var ours []listed
	err := s.list(path.Join(s.to, rel), func(e listed) error {
		if err := s.count(ctx, path.Join(s.to, rel), e); err != nil {
			return err
		}
		at := path.Join(rel, e.name)
		switch {
		case e.name == "" || len(e.name) > maxName || strings.ContainsAny(e.name, "/\x00"): // no name of anything
		case s.ours[at] != 0:
			ours = append(ours, e)
		case s.wantGone:
			s.gone = append(s.gone, at)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look into %s: %w", rel, err)
	}
	for _, e := range ours {
		if err := s.found(ctx, path.Join(rel, e.name), e); err != nil {
			return err
		}
	}
	return nil
}

// plan settles what has to be done.
func (p *pusher) plan(ctx context.Context) error {
	for _, f := range p.folders {
		e, there := p.there[f.rel]
		if there && e.mode&syscall.S_IFMT != syscall.S_IFDIR {
			return inTheWay(f.rel, "a file of that name is in the way")
		}
		if !there {
			p.fresh[f.rel] = true
		}
	}
	var alike []sent
	for _, f := range p.files {
		e, there := p.there[f.rel]
		switch kind := e.mode & syscall.S_IFMT; {
		case there && kind == syscall.S_IFDIR:
			return inTheWay(f.rel, "a folder of that name is in the way")
		case !there || kind != syscall.S_IFREG || e.size != uint64(f.size):
			p.send = append(p.send, f)
		case p.options.Checksum:
			alike = append(alike, f)
		case e.mtime.Unix() == f.mtime.Unix():
			p.keep(f)
		default:
			p.send = append(p.send, f)
		}
	}
	for _, l := range p.links {
		e, there := p.there[l.rel]
		if there && e.mode&syscall.S_IFMT == syscall.S_IFDIR {
			return inTheWay(l.rel, "a folder of that name is in the way")
		}
		if there && e.mode&syscall.S_IFMT == syscall.S_IFLNK {
			if target, err := p.guest.ReadLink(path.Join(p.to, l.rel)); err == nil && target == l.target {
				p.same++
				continue
			}
		}
		p.sendLinks = append(p.sendLinks, l)
	}
	return p.compare(ctx, alike)
}

// compare keeps those files of which the guest tells the same hash.
func (p *pusher) compare(ctx context.Context, alike []sent) error {
	theirs, err := p.conn.hashes(ctx, p.to, rels(alike))
	if err != nil {
		return err
	}
	for _, f := range alike {
		ours, err := p.hash(f)
		if err != nil {
			return err
		}
		if at, told := theirs[f.rel]; told && at == ours {
			p.keep(f)
			continue
		}
		p.send = append(p.send, f)
	}
	return nil
}

func (p *pusher) hash(f sent) (sum, error) {
	src, err := p.open(f.file)
	if err != nil {
		return sum{}, err
	}
	defer src.Close()
	rest := &io.LimitedReader{R: src, N: f.size + 1} // a guest's file may have no end
	s, err := hashOf(rest, -1)
	if err == nil && rest.N == 0 {
		err = fmt.Errorf("%s has become longer than its %d bytes", shown(f.rel), f.size)
	}
	return s, local(err)
}

// verify has the guest hash what was sent.
func (p *pusher) verify(ctx context.Context) error {
	theirs, err := p.conn.hashes(ctx, p.to, rels(p.send))
	if err != nil {
		return err
	}
	for _, f := range p.send {
		ours, err := p.hash(f)
		if err != nil {
			return err
		}
		if at, told := theirs[f.rel]; !told || at != ours {
			return hint.Add(fmt.Errorf("%s has another hash in the guest than here", f.rel), "did one of them change meanwhile? push it again")
		}
	}
	return nil
}

// keep leaves a file as it is in the guest, but for its mode and time.
func (p *pusher) keep(f sent) {
	p.same++
	e := p.there[f.rel]
	if os.FileMode(e.mode&0o777) != f.perm || e.mtime.Unix() != f.mtime.Unix() {
		p.redress = append(p.redress, f)
	}
}

func inTheWay(rel, why string) error { return fmt.Errorf("send %s: %s", rel, why) }

func rels(files []sent) []string {
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = f.rel
	}
	return names
}
