// Package proctest scripts a proc.Runner for tests: these command lines, in this
// order, with these results.
package proctest

import (
	"context"
	"io"
	"strings"
	"testing"

	"meros/internal/proc"
)

// Call is one expected run: the command line joined with spaces, what it writes
// to standard output, and what Run returns.
type Call struct {
	Line string
	Out  string
	Err  error
	Do   func(proc.Cmd) // a side effect, such as writing the file a real program would
}

// Script returns a Runner that takes exactly these calls in this order. A call
// that is not in the script, and one that was never made, fail t.
func Script(t testing.TB, calls ...Call) proc.Runner {
	t.Helper()
	s := &script{t: t, calls: calls}
	t.Cleanup(func() {
		for _, c := range s.calls {
			t.Errorf("never run: %s", c.Line)
		}
	})
	return s
}

type script struct {
	t     testing.TB
	calls []Call
}

func (s *script) Run(_ context.Context, c proc.Cmd) error {
	s.t.Helper()
	line := strings.Join(c.Argv, " ")
	if len(s.calls) == 0 {
		s.t.Fatalf("run %q: the script has ended", line)
	}
	next := s.calls[0]
	if line != next.Line {
		s.t.Fatalf("run %q, want %q", line, next.Line)
	}
	s.calls = s.calls[1:]
	if next.Do != nil {
		next.Do(c)
	}
	if c.Stdout != nil {
		_, _ = io.WriteString(c.Stdout, next.Out)
	}
	return next.Err
}
