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

func TestExtendPath(t *testing.T) {
	t.Setenv("PATH", "/usr/bin:/usr/sbin:/bin")
	for range 2 {
		if err := proc.ExtendPath(); err != nil {
			t.Fatal(err)
		}
		if got, want := os.Getenv("PATH"), "/usr/bin:/usr/sbin:/bin:/usr/local/sbin:/sbin"; got != want {
			t.Errorf("PATH = %s, want %s", got, want)
		}
	}
}
