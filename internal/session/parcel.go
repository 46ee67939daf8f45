package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"meros/internal/hint"
)

// maxFaults is how many faults of what is to be pushed are told at once.
const maxFaults = 20

// sent is a file, folder or link that is to be pushed.
type sent struct {
	file   string // where it is now
	rel    string // below the folder in the guest
	perm   fs.FileMode
	mtime  time.Time
	size   int64
	holes  bool   // parts of it are not stored
	target string // of a link
}

// parcel is what is to be pushed, checked. Folders come before what is in them.
type parcel struct {
	folders, files, links []sent
	bytes                 int64
	faults                []error
	open                  func(file string) (source, error)
}

// source is an open file of a parcel.
type source interface {
	io.Reader
	io.ReaderAt
	io.Closer
}

// pack takes stock of files and folders of the host and makes sure that all can
// be read. Links that are named are followed, those in folders stay links.
func pack(ctx context.Context, named []string) (*parcel, error) {
	p, from := &parcel{open: openLocal}, map[string]string{}
	for _, file := range named {
		base, err := baseName(file)
		if err != nil {
			p.faults = append(p.faults, err)
			continue
		}
		if other, taken := from[base]; taken {
			p.faults = append(p.faults, bothNamed(other, file, base))
			continue
		}
		from[base] = file
		p.add(ctx, file, base)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if n := len(p.faults) - maxFaults; n > 0 {
		p.faults = append(p.faults[:maxFaults], fmt.Errorf("and %d more", n))
	}
	if err := errors.Join(p.faults...); err != nil {
		return nil, hint.Add(err, "nothing was sent")
	}
	return p, nil
}

func bothNamed(one, other, base string) error {
	return fmt.Errorf("%s and %s would both be %s in the guest", one, other, base)
}

func openLocal(file string) (source, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, localFault{err}
	}
	return f, nil
}

// baseName returns the name that a path of the host gets in the guest.
func baseName(file string) (string, error) {
	if file == "" {
		return "", errors.New("a path is empty")
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	if abs == "/" {
		return "", errors.New("/ has no name: name what is in it")
	}
	return filepath.Base(abs), nil
}

// add takes stock of one named path.
func (p *parcel) add(ctx context.Context, file, base string) {
	info, err := os.Stat(file)
	if err != nil {
		p.faults = append(p.faults, err)
		return
	}
	if !info.IsDir() {
		p.put(file, base, info)
		return
	}
	// With the slash, a link to a folder is followed.
	err = filepath.WalkDir(file+"/", func(at string, d fs.DirEntry, err error) error {
		if err == nil && ctx.Err() != nil {
			return fs.SkipAll
		}
		if err != nil {
			p.faults = append(p.faults, err)
			return nil
		}
		info, err := d.Info()
		if err != nil {
			p.faults = append(p.faults, err)
			return nil
		}
		rel, err := filepath.Rel(file, at)
		if err != nil {
			return err
		}
		p.put(at, path.Join(base, rel), info)
		return nil
	})
	if err != nil {
		p.faults = append(p.faults, err)
	}
}

func (p *parcel) put(file, rel string, info fs.FileInfo) {
	s := sent{file: file, rel: rel, perm: info.Mode().Perm(), mtime: info.ModTime(), size: info.Size()}
	var err error
	switch info.Mode().Type() {
	case 0:
		s.holes = hasHoles(info)
		if err = readable(file); err == nil {
			p.files, p.bytes = append(p.files, s), p.bytes+s.size
		}
	case fs.ModeDir:
		p.folders = append(p.folders, s)
	case fs.ModeSymlink:
		if s.target, err = os.Readlink(file); err == nil {
			p.links = append(p.links, s)
		}
	default:
		err = fmt.Errorf("%s is neither file, folder nor link", file)
	}
	if err != nil {
		p.faults = append(p.faults, err)
	}
}

func readable(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	return f.Close()
}
