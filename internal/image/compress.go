package image

import (
	"context"
	"fmt"
	"os"
	"strings"

	"meros/internal/hint"
	"meros/internal/proc"
)

// CompressSuffix is added to the name of an image while Compress works on it.
const CompressSuffix = ".zstd"

// Compress replaces the image at path by the same disk with compressed clusters.
// What a guest writes later is not compressed. On error the image stays as it is.
//
// The clusters are written in the disk's order, so that equal images stay equal:
// qemu-img's -W would be faster and order them by chance.
func Compress(ctx context.Context, r proc.Runner, path string) error {
	out := path + CompressSuffix
	// qemu-img keeps the mode of a file that is there.
	f, err := os.OpenFile(out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, imageMode)
	if err != nil {
		return err
	}
	defer os.Remove(out) // of no effect once it is renamed
	if err := f.Close(); err != nil {
		return err
	}
	argv := []string{"qemu-img", "convert", "-q", "-c", "-f", "qcow2", "-O", "qcow2", "-o", "compression_type=zstd", path, out}
	if err := runTool(ctx, r, proc.Cmd{Argv: argv}); err != nil {
		err = fmt.Errorf("compress the image: %w", diskFull(err, out))
		if strings.Contains(err.Error(), "compression") {
			err = hint.Add(err, "this host's qemu-img knows no zstd: take compression= out of the build XML")
		}
		return err
	}
	for _, argv := range [][]string{{"qemu-img", "check", "-q", out}, {"qemu-img", "compare", "-q", path, out}} {
		if err := runTool(ctx, r, proc.Cmd{Argv: argv}); err != nil {
			return fmt.Errorf("check the compressed image: %w", err)
		}
	}
	return os.Rename(out, path)
}
