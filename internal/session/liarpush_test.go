package session

import (
	"bytes"
	"errors"
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

// What a guest says no to, in whatever words, ends a push with one clean line.
func TestPushToLiar(t *testing.T) {
	for _, refused := range []string{"Mkdir", "Write", "Setstat", "Rename", "Symlink", "nothing"} {
		t.Run(refused, func(t *testing.T) {
			g := lying(t, &liar{
				list: func(dir string) []fs.FileInfo {
					if dir == "/" && refused != "Mkdir" {
						return []fs.FileInfo{lie{"mos-shared", fs.ModeDir | 0o755, 0}}
					}
					return nil
				},
				link: func() string { return strings.Repeat("\x1b[2J", 10<<10) },
				cmd: func(method string) error {
					if method == refused {
						return errors.New("\x1b[31mno\nway")
					}
					return nil
				},
			})
			tree := pushedTree(t)
			if err := os.Symlink("file", filepath.Join(tree, "link")); err != nil {
				t.Fatal(err)
			}
			for _, checksum := range []bool{false, true} {
				within(t, 20*time.Second, "push", func() {
					_, _, err := Push(t.Context(), g.dial(), quiet(), []string{tree}, PushOptions{Checksum: checksum})
					if wanted := refused != "nothing" || checksum; wanted != (err != nil) || err != nil && strings.ContainsAny(err.Error(), "\x1b\n") {
						t.Errorf("checksum %t: error %q", checksum, err)
					}
				})
			}
		})
	}
}

// A guest in which everything is a folder of itself is left all the same, and so is one
// whose folder has no end.
func TestPushIntoALiarsTree(t *testing.T) {
	g := lying(t, &liar{list: func(string) []fs.FileInfo {
		return []fs.FileInfo{lie{"tree", fs.ModeDir | 0o755, 0}, lie{"file", fs.ModeSymlink | 0o777, 0}, lie{"mos-shared", fs.ModeDir | 0o755, 0}}
	}})
	within(t, 20*time.Second, "push", func() {
		var out bytes.Buffer
		if _, _, err := Push(t.Context(), g.dial(), &ui.Streams{Out: &out, Err: io.Discard}, []string{pushedTree(t)}, PushOptions{DryRun: true, Delete: true}); err != nil {
			t.Error(err)
		}
		want(t, "told", out.String(), "send tree/file\ndelete tree/mos-shared\ndelete tree/tree\n")
	})
	endless := babbler(t, func(ch io.Writer, id uint32) {
		names := namesPacket(id, 1000, "x")
		entry := names[8:]
		for range 999 {
			names = append(names, entry...)
		}
		_ = (&lister{w: ch}).send(fxpName, names)
	})
	within(t, 60*time.Second, "push", func() {
		_, _, err := Push(t.Context(), endless.dial(), quiet(), []string{pushedTree(t)}, PushOptions{})
		if err == nil {
			t.Error("a push into a folder without end ended well")
		}
	})
}
