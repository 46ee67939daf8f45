package session

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/pkg/sftp"
)

// maxRefused is how many refused entries are kept to be listed.
const maxRefused = 1000

// RefusedError reports that entries of a guest were not pulled; the others were.
type RefusedError struct {
	Entries []Refused // the first 1000
	Total   int
}

// Refused is an entry of a guest that was not pulled, and why.
type Refused struct {
	Path string // as the guest names it: not to be trusted, shown with String
	Why  error
}

func (r Refused) String() string { return shown(r.Path) + ": " + oneLine(r.Why.Error()) }

func (e *RefusedError) Error() string {
	if e.Total == 1 {
		return "1 entry of the guest was refused: " + e.Entries[0].String()
	}
	return fmt.Sprintf("%d entries of the guest were refused", e.Total)
}

// refusals collects them; many may at once.
type refusals struct {
	mu sync.Mutex
	RefusedError
}

func (r *refusals) add(path string, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Total++
	if len(r.Entries) < maxRefused {
		path = strings.TrimPrefix(path, "/")
		r.Entries = append(r.Entries, Refused{strings.Clone(path[:min(len(path), maxPath)]), why})
	}
}

func (r *refusals) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Total == 0 {
		return nil
	}
	return &RefusedError{Entries: r.Entries, Total: r.Total}
}

// guestSaysNo reports whether err is a guest's answer about one file, after
// which others can still be had.
func guestSaysNo(err error) bool {
	if _, local := errors.AsType[localFault](err); local {
		return false
	}
	_, ours := errors.AsType[*statusError](err)
	_, theirs := errors.AsType[*sftp.StatusError](err)
	return ours || theirs || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)
}
