package rootfs

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"meros/internal/family"
	"meros/internal/proc"
)

// reachTime is how long a mirror may take to show its index. One that takes
// longer is no use for a build either.
const reachTime = 10 * time.Second

// Reachable asks the mirror of a target for its index and returns why it did not
// come, or nil. A target whose mirror only its bootstrap tool knows is taken to
// be reachable.
func Reachable(ctx context.Context, r proc.Runner, t *family.Target, o Options) error {
	index, err := indexOf(ctx, r, t, o)
	if err != nil || index == "" {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, reachTime, fmt.Errorf("nothing came for %s", reachTime))
	defer cancel()
	return get(ctx, index, io.Discard, maxIndex)
}

// indexOf is the address of what a build asks a target's mirror for first.
func indexOf(ctx context.Context, r proc.Runner, t *family.Target, o Options) (string, error) {
	if t.Distro == "alpine" {
		b, err := alpineSource(t)
		return b.folder() + releasesFile, err
	}
	lines, _, err := distros[t.Distro].sourcesOf(ctx, r, t, o)
	if err != nil || len(lines) == 0 {
		return "", err
	}
	suite, err := distros[t.Distro].suite(t)
	return strings.TrimSuffix(mirrorOf(lines[0]), "/") + "/dists/" + suite + "/InRelease", err
}
