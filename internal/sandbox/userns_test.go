package sandbox

import (
	"errors"
	"strings"
	"testing"

	"meros/internal/hint"
	"meros/internal/proc"
)

func TestMissingMapperComesWithTheCommandThatAddsIt(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, _, err := subordinate()
	if err == nil {
		t.Skip("newuidmap is where an administrator's programs are")
	}
	if got := strings.Join(hint.Of(err), "\n"); !errors.Is(err, proc.ErrNotFound) || !strings.Contains(got, "sudo apt-get install uidmap") {
		t.Errorf("without newuidmap: %v, hints %q", err, got)
	}
}
