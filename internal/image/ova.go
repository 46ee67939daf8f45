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

// Unpack copies the disk in an OVA to out and returns how many disks there are;
// the first is taken. Names in the archive are compared, never used.
func Unpack(ctx context.Context, s Source, out string) (disks int, err error) {
	f, err := os.Open(s.File)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for archive := tar.NewReader(f); ; {
		member, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return disks, fmt.Errorf("%s: not a whole OVA: %w", s.File, err)
		}
		if member.Typeflag != tar.TypeReg || !isDisk(member.Name) {
			continue
		}
		if disks++; disks > 1 {
			continue
		}
		if err := copyTo(ctx, out, archive); err != nil {
			return disks, fmt.Errorf("unpack %s: %w", s.File, err)
		}
	}
	if disks == 0 {
		return 0, fmt.Errorf("%s: no disk in it: want a file that ends in .vmdk, .vdi, .vhdx, .qcow2 or .img", s.File)
	}
	return disks, nil
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
