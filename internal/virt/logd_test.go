package virt

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestLogsBounded(t *testing.T) {
	dir := t.TempDir()
	none := filepath.Join(dir, "none")
	for i, c := range []struct {
		qemu, virtlogd string
		bounded        bool
	}{
		{"", "", true},
		{"#stdio_handler = \"file\"\n", "#max_size = 0\n", true},
		{"stdio_handler = \"logd\"\n", "max_size = 131072\n", true},
		{"user = \"x\"\nstdio_handler = \"file\" # faster\n", "", false},
		{"", "max_size = 0\n", false},
	} {
		files := []string{none, none}
		for n, content := range []string{c.qemu, c.virtlogd} {
			if content == "" {
				continue
			}
			files[n] = filepath.Join(dir, "conf")
			if err := os.WriteFile(files[n], []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := logsBounded(files[0], files[1]); (err == nil) != c.bounded || err != nil && !errors.Is(err, ErrUnbounded) {
			t.Errorf("case %d: %v, want bounded to be %v", i, err, c.bounded)
		}
	}
}
