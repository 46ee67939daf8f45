// Package hint attaches advice to an error: what the person can do next.
//
// Advice is kept apart from the fact so that each can be worded, tested and
// printed on its own. A hint never changes what errors.Is and errors.As find.
package hint

import "fmt"

type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// Add returns err with one line of advice attached. It returns nil if err is nil.
func Add(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hinted{err, fmt.Sprintf(format, args...)}
}

// Of returns all advice attached to err, outermost first, each line once.
func Of(err error) []string {
	var hints []string
	seen := map[string]bool{}
	collect(err, func(h string) {
		if !seen[h] {
			seen[h] = true
			hints = append(hints, h)
		}
	})
	return hints
}

func collect(err error, add func(string)) {
	for err != nil {
		switch e := err.(type) {
		case *hinted:
			add(e.hint)
			err = e.error
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		case interface{ Unwrap() []error }:
			for _, sub := range e.Unwrap() {
				collect(sub, add)
			}
			return
		default:
			return
		}
	}
}
