package ui_test

import (
	"strings"
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
