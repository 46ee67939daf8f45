package rootfs

import (
	"fmt"
	"testing"

	"meros/internal/proc"
	"meros/internal/proc/proctest"
)

// A daemon of a hook or of a package holds the output open that it was given.
func TestDaemonThatHoldsItsOutputIsNoFault(t *testing.T) {
	left := fmt.Errorf("chroot: %w", proc.ErrLeftBehind)
	c := &chroot{tree: tree{"/tree"}, r: proctest.Script(t, proctest.Call{Line: "chroot /tree /run/hook", Err: left})}
	if err := c.run(t.Context(), nil, "/run/hook"); err != nil {
		t.Errorf("run = %v, want the program's status, which was 0", err)
	}
}
