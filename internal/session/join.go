package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"meros/internal/hint"
)

// ErrOtherSession is wrapped when programs of the target run with other options than
// are asked for, which hold for all of them.
var ErrOtherSession = errors.New("another session runs")

// join makes this run one of those that share the target's session. The first of them
// leaves beside the lock what holds for all: who looks for it has the lock.
func (w *window) join(ctx context.Context) (*hold, error) {
	return poll(ctx, func() (*hold, error) {
		users, err := w.dir.tryLock("users", unix.LOCK_EX)
		if users == nil && err == nil {
			return w.dir.tryLock("users", unix.LOCK_SH)
		}
		if err != nil {
			return nil, err
		}
		err = os.WriteFile(w.dir.file("options"), []byte(w.options.session()), 0o600)
		if err := errors.Join(err, users.share()); err != nil {
			users.release()
			return nil, err
		}
		return users, nil
	})
}

// session is what holds for all programs that share a session, as the command line
// has it.
func (o RunOptions) session() string {
	words := "--border '" + o.Border + "'" // #rrggbb would be a comment for a shell
	if allow := slices.Compact(slices.Sorted(slices.Values(o.Allow))); len(allow) > 0 {
		words += " --allow " + strings.Join(allow, ",")
	}
	return words
}

// agree returns an error where the session that was joined is not what is asked for:
// windows would be allowed more than was said, or less.
func (w *window) agree() error {
	runs, err := os.ReadFile(w.dir.file("options"))
	if err != nil {
		return fmt.Errorf("look for what the session of %s allows: %w", w.fullID, err)
	}
	if wanted := w.options.session(); wanted != string(runs) {
		err := fmt.Errorf("%s: %w: its programs share a display, which is shown with %s, not with %s", w.fullID, ErrOtherSession, runs, wanted)
		return hint.Add(hint.Add(err, "or give %s", runs), "end the programs of %s that run", w.fullID)
	}
	return nil
}
