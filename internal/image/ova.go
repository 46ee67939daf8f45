package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// Unpacked is what was found in an OVA.
type Unpacked struct {
	Disks   int  // of which the first was taken
	Checked bool // whether there was a manifest, and all is as it says
}

// Unpack copies the first disk in an OVA to out, and checks the sums that the
// package gives. Names in the archive are compared, never used.
func Unpack(ctx context.Context, s Source, out string) (Unpacked, error) {
	f, err := os.Open(s.File)
	if err != nil {
		return Unpacked{}, err
	}
	defer f.Close()
	u := unpacking{ctx: ctx, source: s, out: out, found: sums{}}
	for archive := tar.NewReader(f); ; {
		member, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return u.Unpacked, fmt.Errorf("%s: not a whole OVA: %w", s.File, err)
		}
		if member.Typeflag != tar.TypeReg {
			continue
		}
		if err := u.member(member, archive); err != nil {
			return u.Unpacked, fmt.Errorf("unpack %s: %w", s.File, err)
		}
	}
	if u.Disks == 0 {
		return u.Unpacked, fmt.Errorf("%s: no disk in it: want a file that ends in .vmdk, .vdi, .vhdx, .qcow2 or .img", s.File)
	}
	if u.manifest != nil {
		if err := u.manifest.check(u.found, u.disk); err != nil {
			return u.Unpacked, fmt.Errorf("%s: %w", s.File, err)
		}
		u.Checked = true
	}
	return u.Unpacked, nil
}

type unpacking struct {
	Unpacked
	ctx      context.Context
	source   Source
	out      string
	disk     string // the name of the one that was taken
	found    sums
	manifest sums // nil: none
}

// maxMembers is how many files an OVA may have: a description, a manifest, and
// disks.
const maxMembers = 256

func (u *unpacking) member(m *tar.Header, content io.Reader) (err error) {
	// A sparse member says what size it wants; it would be written out, zeros and all.
	if m.Size > u.source.Bytes {
		return fmt.Errorf("%.100q says that it is larger than the whole file", m.Name)
	}
	if len(u.found) == maxMembers {
		return fmt.Errorf("there are more than %d files in it", maxMembers)
	}
	summed := newSumming(ended{u.ctx, content})
	defer func() { summed.into(u.found, m.Name) }()
	switch {
	case strings.EqualFold(path.Ext(m.Name), ".mf") && m.Size <= maxManifest:
		text, err := io.ReadAll(summed)
		if err == nil {
			u.manifest, err = readManifest(text)
		}
		return err
	case isDisk(m.Name):
		if u.Disks++; u.Disks == 1 {
			u.disk = m.Name
			return copyTo(u.ctx, u.out, summed)
		}
	}
	_, err = io.Copy(io.Discard, summed)
	return err
}

func isDisk(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".vmdk", ".vdi", ".vhdx", ".qcow2", ".img", ".raw":
		return true
	}
	return false
}

func copyTo(ctx context.Context, out string, from io.Reader) error {
	f, err := os.OpenFile(out, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, ended{ctx, from})
	return errors.Join(err, f.Close())
}

// Copy copies a source as it is to out.
func Copy(ctx context.Context, s Source, out string) error {
	f, err := os.Open(s.File)
	if err != nil {
		return err
	}
	defer f.Close()
	return copyTo(ctx, out, f)
}

// ended is a reader that ends with its context.
type ended struct {
	ctx context.Context
	io.Reader
}

// Read implements io.Reader.
func (e ended) Read(p []byte) (int, error) {
	if e.ctx.Err() != nil {
		return 0, context.Cause(e.ctx)
	}
	return e.Reader.Read(p)
}
