package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"meros/internal/hint"
	"meros/internal/proc"
)

// maxBrought is the largest disk that is taken in: 16 TiB, the largest ext4 with
// blocks of 4 KiB and 32-bit block numbers. More is a header that lies.
const maxBrought = 16 << 40

// Source is an image that somebody brings.
type Source struct {
	File   string // absolute
	Format Format
	Bytes  int64 // of the disk that the guest sees
}

// Inspect looks at a file that is to become a target's image. It reads the
// header itself before it lets any program near: a file that names others, as a
// backing file or for its data, is refused, and so is what says nothing of its
// format, unless the person says raw.
func Inspect(ctx context.Context, r proc.Runner, file string, asked Format) (Source, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return Source{}, err
	}
	s := Source{File: file}
	f, err := os.Open(file)
	if err != nil {
		return s, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return s, err
	case !info.Mode().IsRegular():
		return s, fmt.Errorf("%s is no regular file", file)
	case info.Size() == 0:
		return s, fmt.Errorf("%s is empty", file)
	}
	if s.Format, err = formatOf(f, info.Size(), asked); err != nil {
		return s, fmt.Errorf("%s: %w", file, err)
	}
	s.Bytes = info.Size()
	if s.Format == ISO || s.Format == OVA {
		return s, nil
	}
	if err := refuseReferences(f, s.Format); err != nil {
		return s, fmt.Errorf("%s: %w", file, err)
	}
	s.Bytes, err = askQEMU(ctx, r, s)
	return s, err
}

// told is what qemu-img info says of an image.
type told struct {
	Size      int64  `json:"virtual-size"`
	Backing   string `json:"backing-filename"`
	Encrypted bool   `json:"encrypted"`
	Specific  struct {
		Data struct {
			DataFile string `json:"data-file"`
			Corrupt  bool   `json:"corrupt"`
		} `json:"data"`
	} `json:"format-specific"`
}

// askQEMU has QEMU look at an image too, as the format that it was found to be.
func askQEMU(ctx context.Context, r proc.Runner, s Source) (int64, error) {
	var out strings.Builder
	err := r.Run(ctx, proc.Cmd{Argv: []string{"qemu-img", "info", "--output=json", "-f", string(s.Format), s.File}, Stdout: &out})
	if err != nil {
		return 0, fmt.Errorf("%s: not a whole %s image: %w", s.File, s.Format, err)
	}
	var t told
	if err := json.Unmarshal([]byte(out.String()), &t); err != nil {
		return 0, fmt.Errorf("%s: what qemu-img says of it: %w", s.File, err)
	}
	switch {
	case t.Backing != "":
		return 0, fmt.Errorf("%s: %w", s.File, refuse("a backing file, %q", t.Backing))
	case t.Specific.Data.DataFile != "":
		return 0, fmt.Errorf("%s: %w", s.File, refuse("its data in another file, %q", t.Specific.Data.DataFile))
	case t.Encrypted:
		return 0, fmt.Errorf("%s is encrypted: meros has no way to ask for its key", s.File)
	case t.Specific.Data.Corrupt:
		return 0, fmt.Errorf("%s is marked as corrupt", s.File)
	case t.Size < sectorSize || t.Size > maxBrought:
		return 0, fmt.Errorf("%s: a disk of %d bytes is not sane: want %d to %d", s.File, t.Size, sectorSize, int64(maxBrought))
	}
	return t.Size, nil
}

func refuse(format string, args ...any) error {
	return hint.Add(errors.New("it has "+fmt.Sprintf(format, args...)+", which could be any file of this host"),
		"make it whole where you trust it: qemu-img convert -O qcow2 FILE WHOLE.qcow2")
}

// Convert writes a source that is no ISO and no OVA to out, as a qcow2 image.
func Convert(ctx context.Context, r proc.Runner, s Source, out string) error {
	err := r.Run(ctx, proc.Cmd{Argv: []string{"qemu-img", "convert", "-f", string(s.Format), "-O", "qcow2", s.File, out}})
	if err != nil {
		return fmt.Errorf("convert %s: %w", s.File, err)
	}
	err = r.Run(ctx, proc.Cmd{Argv: []string{"qemu-img", "check", "-q", "-f", "qcow2", out}})
	if err != nil {
		return fmt.Errorf("check what %s became: %w", s.File, err)
	}
	return nil
}
