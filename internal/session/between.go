package session

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/pkg/sftp"

	"meros/internal/ui"
)

// PushBetween copies files and folders of one guest to a folder of another,
// through this host's memory. What from shows is checked as for Pull, and what is
// refused is left out: then all else is in place and the error is a *RefusedError.
func PushBetween(ctx context.Context, from, to *Conn, s *ui.Streams, named []string, limits PullOptions, o PushOptions) (Summary, string, error) {
	limits.fill()
	client, stop, err := from.files(ctx, 0)
	if err != nil {
		return Summary{}, "", causeOr(ctx, err)
	}
	defer stop()
	parcel, refused, err := packGuest(ctx, from, client, named, limits)
	if err != nil {
		return Summary{}, "", causeOr(ctx, from.fault(err))
	}
	done, where, err := push(ctx, to, s, parcel, o)
	if err == nil {
		err = refused.err()
	}
	return done, where, err
}

// packGuest takes stock of files and folders of a guest.
func packGuest(ctx context.Context, c *Conn, client *sftp.Client, named []string, limits PullOptions) (*parcel, *refusals, error) {
	l, err := newLister(ctx, c, 0)
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	p, taken := &parcel{open: func(file string) (source, error) {
		f, err := client.Open(file)
		if err != nil {
			return nil, c.fault(err)
		}
		return f, nil
	}}, map[string]string{}
	w := &walker{lister: l, limits: limits}
	for _, file := range named {
		dir, label, err := homeDir(file, c.shared)
		if err != nil {
			return nil, nil, err
		}
		base := path.Base(dir)
		if err := checkName(base); err != nil {
			return nil, nil, fmt.Errorf("%s has no name that it could get: name what is in it", label)
		}
		if other, ok := taken[base]; ok {
			return nil, nil, bothNamed(other, file, base)
		}
		taken[base] = file
		if err := p.addGuest(ctx, w, dir); err != nil {
			return nil, nil, fmt.Errorf("look at %s: %w", strings.TrimSuffix(label, "/"), err)
		}
	}
	return p, &w.refused, nil
}

// addGuest takes stock of one named path.
func (p *parcel) addGuest(ctx context.Context, w *walker, named string) error {
	w.folders, w.files, w.links = nil, nil, nil
	w.base = path.Dir(named)
	base := path.Base(named)
	err := w.one(base)
	if errors.Is(err, errFolder) {
		err = w.enter(ctx, remote{rel: base, perm: 0o755, mtime: w.top.mtime}, 0)
	}
	if err == nil {
		err = w.readLinks(ctx)
	}
	if err != nil {
		return err
	}
	for kind, all := range map[*[]sent][]remote{&p.folders: w.folders, &p.files: w.files, &p.links: w.links} {
		for _, r := range all {
			*kind = append(*kind, sent{file: path.Join(w.base, r.rel), rel: r.rel, perm: r.perm, mtime: r.mtime, size: r.size, target: r.target})
		}
	}
	return nil
}
