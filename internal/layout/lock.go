package layout

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"meros/internal/hint"
)

// ErrLocked is wrapped by Lock's error when it must not wait and another holds
// the lock.
var ErrLocked = errors.New("in use by another meros")

// pollInterval is how often a waiting Lock looks again.
const pollInterval = 200 * time.Millisecond

// Lock holds the lock of that name, for one process at a time, until unlock is
// called or the process ends. as says what for, to those who wait. If another
// holds it, waiting is called once with the holder's words; with waiting nil,
// Lock fails at once.
func (p Paths) Lock(ctx context.Context, name, as string, waiting func(holder string)) (unlock func(), err error) {
	if err := p.MkdirAll(p.State(), 0o755); err != nil {
		return nil, err
	}
	path := p.join("data", "state", name+".lock")
	l := flock.New(path)
	got, err := l.TryLock()
	if errors.Is(err, fs.ErrPermission) {
		return nil, hint.Add(fmt.Errorf("lock %s: %w", name, err), "%s belongs to somebody else: call meros with sudo, or make it yours with chown", p.Data())
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	if !got {
		holder := holderOf(path)
		if waiting == nil {
			return nil, fmt.Errorf("%s: %w: %s", name, ErrLocked, holder)
		}
		waiting(holder)
		if _, err := l.TryLockContext(ctx, pollInterval); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(path, []byte(fmt.Sprintf("%s (process %d)\n", as, os.Getpid())), 0o644); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), l.Unlock())
	}
	_ = p.Owner.Give(path)
	return func() { _ = l.Unlock() }, nil
}

func holderOf(path string) string {
	words, err := os.ReadFile(path)
	if err != nil || len(words) == 0 {
		return "unknown process"
	}
	return strings.TrimSpace(string(words))
}
