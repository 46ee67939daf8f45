package session

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meros/internal/ui"
)

// pushedTree makes a folder tree with one file.
func pushedTree(t *testing.T) string {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	return tree
}

// What a guest has is told a line each, however it calls it.
func TestPushDryRunOfALiarsNames(t *testing.T) {
	var shows []fs.FileInfo
	for _, name := range append(evilNames, "plain", "two words", `"quoted"`, "x\nsend secret", "\u202egpj.exe", strings.Repeat("y", 64<<10)) {
		shows = append(shows, lie{name, 0o644, 7})
	}
	g := lying(t, &liar{list: func(dir string) []fs.FileInfo {
		switch dir {
		case "/mos-shared":
			return []fs.FileInfo{lie{"tree", fs.ModeDir | 0o755, 0}}
		case "/mos-shared/tree":
			return shows
		}
		return nil
	}})
	for _, remove := range []bool{true, false} {
		var out bytes.Buffer
		within(t, 20*time.Second, "push", func() {
			streams := &ui.Streams{Out: &out, Err: io.Discard}
			if _, _, err := Push(t.Context(), g.dial(), streams, []string{pushedTree(t)}, PushOptions{DryRun: true, Delete: remove}); err != nil {
				t.Error(err)
			}
		})
		told := map[string]bool{}
		for line := range strings.Lines(out.String()) {
			told[line] = true
			if len(line) > 4*maxName+40 || !remove && line != "send tree/file\n" || !strings.HasPrefix(line, "send tree/file") && !strings.HasPrefix(line, "delete ") {
				t.Errorf("told: %.100q", line)
			}
		}
		for _, line := range []string{"delete tree/plain", "delete tree/two words", `delete "tree/\"quoted\""`, `delete "tree/x\nsend secret"`, `delete "tree/\u202egpj.exe"`} {
			if told[line+"\n"] != remove {
				t.Errorf("%q told: %t, want %t", line, !remove, remove)
			}
		}
	}
}
