package image

import (
	"context"
	"fmt"

	"meros/internal/proc"
)

// Overlay makes an empty qcow2 image at out over a qcow2 image, its backing file,
// which is only ever read. What is at out already is replaced.
func Overlay(ctx context.Context, r proc.Runner, backing, out string) error {
	// The format is written down: guessed from the content, it would be the guest's
	// choice (qemu-img(1), -F).
	err := r.Run(ctx, proc.Cmd{Argv: []string{"qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, out}})
	if err != nil {
		return fmt.Errorf("make an overlay over %s: %w", backing, err)
	}
	return nil
}
