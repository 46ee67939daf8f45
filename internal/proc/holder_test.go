package proc_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/proc"
)

func TestHolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := proc.Holder(file), fmt.Sprintf(", process %d", os.Getpid()); !strings.HasSuffix(got, want) {
		t.Errorf("Holder = %q, want it to end in %q", got, want)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got := proc.Holder(file); got != "" {
		t.Errorf("closed, Holder = %q", got)
	}
}
