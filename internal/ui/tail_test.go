package ui_test

import (
	"strings"
	"sync"
	"testing"

	"meros/internal/ui"
)

func TestTailKeepsTheEnd(t *testing.T) {
	var tail ui.Tail
	for range 5 {
		_, _ = tail.Write([]byte(strings.Repeat("x", 30<<10)))
	}
	_, _ = tail.Write([]byte("end\n"))
	if got := tail.String(); len(got) != 64<<10 || !strings.HasSuffix(got, "xend\n") {
		t.Errorf("%d bytes are kept, ending in %q", len(got), got[len(got)-5:])
	}
}

// A program's output and its errors come from two goroutines.
func TestTailTakesTwoStreams(t *testing.T) {
	const lines = 10000
	var tail ui.Tail
	var streams sync.WaitGroup
	for _, line := range []string{"o\n", "e\n"} {
		streams.Go(func() {
			for range lines {
				_, _ = tail.Write([]byte(line))
				_ = tail.String()
			}
		})
	}
	streams.Wait()
	for _, line := range []string{"o\n", "e\n"} {
		if got := strings.Count(tail.String(), line); got != lines {
			t.Errorf("%d lines %q are kept, want %d", got, line, lines)
		}
	}
}
