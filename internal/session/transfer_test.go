package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"meros/internal/ui"
)

// makeTree makes files, folders and links of all kinds that may be copied.
func makeTree(t *testing.T, dir string) {
	t.Helper()
	big := make([]byte, 3<<20+17)
	for i := range big {
		big[i] = byte(rand.Uint32())
	}
	when := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	files := map[string][]byte{
		"a": []byte("hello"), "empty": nil, "big": big, "32k": big[:32<<10], "32k-1": big[:32<<10-1], "32k+1": big[:32<<10+1],
		"sub/deep/ü ✓": []byte("x"), "-rf": []byte("dash"), " ": []byte("space"), "'\"$`\\": []byte("quotes"),
	}
	for i := range 60 {
		files[fmt.Sprintf("many/%02d", i)] = []byte{byte(i)}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range files {
		file := filepath.Join(dir, name)
		must(os.MkdirAll(filepath.Dir(file), 0o755))
		must(os.WriteFile(file, content, 0o644))
		must(os.Chtimes(file, when, when))
	}
	must(os.Chmod(filepath.Join(dir, "a"), 0o400))
	must(os.Chmod(filepath.Join(dir, "32k"), 0o4755))
	must(os.Mkdir(filepath.Join(dir, "void"), 0o755))
	must(os.Symlink("../a", filepath.Join(dir, "sub", "link")))
	must(os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	must(os.Symlink("sub/deep", filepath.Join(dir, "dirlink")))
	must(os.Chmod(filepath.Join(dir, "sub", "deep"), 0o500))
	for _, name := range []string{"void", "sub/deep", "sub", "many", "."} {
		must(os.Chtimes(filepath.Join(dir, name), when, when))
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "sub", "deep"), 0o700) })
}

// describe returns a line for everything in a tree.
func describe(t *testing.T, dir string, mode func(fs.FileInfo) fs.FileMode) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, at)
		switch d.Type() {
		case fs.ModeSymlink:
			target, _ := os.Readlink(at)
			fmt.Fprintf(&b, "%q -> %q\n", rel, target)
		case fs.ModeDir:
			fmt.Fprintf(&b, "%q %s %d\n", rel, mode(info), info.ModTime().Unix())
		default:
			content, err := os.ReadFile(at)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "%q %s %d %d %x\n", rel, mode(info), info.ModTime().Unix(), len(content), content[:min(len(content), 9)])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// pulledMode is the mode that a file gets by being pushed and pulled.
func pulledMode(info fs.FileInfo) fs.FileMode {
	if info.IsDir() {
		return info.Mode().Perm() | 0o700
	}
	return info.Mode().Perm()&^0o111 | 0o600
}

func TestPushThenPull(t *testing.T) {
	g := newGuest(t, nil)
	c := g.dial()
	tree := filepath.Join(t.TempDir(), "tree")
	makeTree(t, tree)
	for range 2 { // the second replaces the first
		done, where, err := Push(t.Context(), c, quiet(), []string{tree, tree + "/big"}, PushOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want(t, "where", where, "mos_demo-box:~/mos-shared/")
		want(t, "files, folders, links", []int{done.Files, done.Folders, done.Links}, []int{71, 5, 3})
	}
	perm := func(info fs.FileInfo) fs.FileMode { return info.Mode().Perm() }
	if d := cmp.Diff(describe(t, tree, perm), describe(t, filepath.Join(g.home, "mos-shared", "tree"), perm)); d != "" {
		t.Errorf("in the guest (-want +got):\n%s", d)
	}
	stale := filepath.Join(g.paths.Shared("mos_demo-box"), "stale")
	if err := os.MkdirAll(stale, 0o755); err != nil {
		t.Fatal(err)
	}
	done, err := Pull(t.Context(), c, g.paths, quiet(), PullOptions{})
	if err != nil {
		t.Fatalf("%#v", err)
	}
	want(t, "files, folders, links", []int{done.Files, done.Folders, done.Links}, []int{71, 5, 3})
	dest := g.paths.Shared("mos_demo-box")
	if d := cmp.Diff(describe(t, tree, pulledMode), describe(t, filepath.Join(dest, "tree"), pulledMode)); d != "" {
		t.Errorf("pulled (-want +got):\n%s", d)
	}
	if _, err := os.Stat(stale); err == nil {
		t.Error("former content is still there")
	}
	onlyChild(t, filepath.Dir(dest), "mos_demo-box")
	checkOrigin(t, filepath.Join(dest, "big"))
}

// onlyChild fails if a folder holds anything else.
func onlyChild(t *testing.T, dir, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != name {
		t.Errorf("%s holds %v, %v, want only %s", dir, entries, err, name)
	}
}

func checkOrigin(t *testing.T, file string) {
	t.Helper()
	buf := make([]byte, 100)
	n, err := unix.Getxattr(file, originAttr, buf)
	if errors.Is(err, unix.ENOTSUP) {
		t.Log("no user attributes here")
		return
	}
	if err != nil || string(buf[:n]) != "mos_demo-box" {
		t.Errorf("%s = %q, %v", originAttr, buf[:max(n, 0)], err)
	}
}

func TestPullExecutable(t *testing.T) {
	g := newGuest(t, nil)
	file := filepath.Join(g.shared(), "tool")
	if err := os.WriteFile(file, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o6755|fs.ModeSetuid|fs.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	c := g.dial()
	for _, k := range []struct {
		executable bool
		mode       fs.FileMode
	}{{false, 0o644}, {true, 0o755}} {
		if _, err := Pull(t.Context(), c, g.paths, quiet(), PullOptions{Executable: k.executable}); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(g.paths.Shared("mos_demo-box"), "tool"))
		if err != nil {
			t.Fatal(err)
		}
		want(t, "mode", info.Mode(), k.mode)
	}
}

func TestPushTo(t *testing.T) {
	g := newGuest(t, nil)
	c := g.dial()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for to, where := range map[string]string{
		"": "~/mos-shared/", "~": "~/", "~/a/b": "~/a/b/", "c/../d/": "~/d/", g.home + "/abs": g.home + "/abs/",
	} {
		_, at, err := Push(t.Context(), c, quiet(), []string{file}, PushOptions{To: to})
		if err != nil {
			t.Fatalf("--to %q: %v", to, err)
		}
		want(t, "where", at, "mos_demo-box:"+where)
		in := strings.Replace(where, "~", g.home, 1)
		info, err := os.Stat(filepath.Join(in, "file"))
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("--to %q: %v, %v", to, info, err)
		}
	}
	if _, _, err := Push(t.Context(), c, quiet(), []string{file}, PushOptions{To: "~root/x"}); err == nil {
		t.Error("--to ~root/x: no error")
	}
}

func TestPushRefusesBeforeSending(t *testing.T) {
	g := newGuest(t, nil)
	c := g.dial()
	dir := t.TempDir()
	for _, name := range []string{"one/x", "two/x"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(dir, "two", "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for words, named := range map[string][]string{
		"no such file":        {dir + "/one", dir + "/none"},
		"would both be x":     {dir + "/one/x", dir + "/two/x/"},
		"neither file":        {dir + "/two"},
		"/ has no name":       {"/"},
		"a path is empty":     {""},
		"none: no such file":  {dir + "/none", "/"},
		"/fifo is neither fi": {dir + "/two/fifo"},
	} {
		_, _, err := Push(t.Context(), c, quiet(), named, PushOptions{})
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("push %q: error %v, want %q", named, err, words)
		}
	}
	if _, err := os.Stat(filepath.Join(g.home, "mos-shared")); err == nil {
		t.Error("something was sent")
	}
}

func TestPushInTheWay(t *testing.T) {
	g := newGuest(t, nil)
	c := g.dial()
	tree := filepath.Join(t.TempDir(), "tree")
	makeTree(t, tree)
	if err := os.WriteFile(filepath.Join(g.shared(), "tree"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Push(t.Context(), c, quiet(), []string{tree}, PushOptions{}); err == nil || !strings.Contains(err.Error(), "in the way") {
		t.Errorf("error %v", err)
	}
	if err := os.MkdirAll(filepath.Join(g.shared(), "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Push(t.Context(), c, quiet(), []string{tree + "/a"}, PushOptions{}); err == nil {
		t.Error("a file replaced a folder")
	}
	noPartials(t, g.home)
}

func noPartials(t *testing.T, dir string) {
	t.Helper()
	_ = filepath.WalkDir(dir, func(at string, _ fs.DirEntry, _ error) error {
		if strings.HasSuffix(at, ".partial") {
			t.Errorf("%s is left", at)
		}
		return nil
	})
}

// endless makes a file that takes long to copy.
func endless(t *testing.T, file string) {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 8<<30); err != nil {
		t.Fatal(err)
	}
}

func TestPushCancelled(t *testing.T) {
	g := newGuest(t, nil)
	c := g.dial()
	file := filepath.Join(t.TempDir(), "file")
	endless(t, file)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for {
			if found, _ := filepath.Glob(g.home + "/mos-shared/.meros-*.partial"); found != nil {
				cancel()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	within(t, 8*time.Second, "push", func() {
		if _, _, err := Push(ctx, c, quiet(), []string{file}, PushOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want the context's", err)
		}
	})
	entries, _ := os.ReadDir(g.home + "/mos-shared")
	want(t, "entries left in the guest", len(entries), 0)
}

func TestPullCancelled(t *testing.T) {
	g := newGuest(t, nil)
	c := g.dial()
	endless(t, filepath.Join(g.shared(), "file"))
	dest := g.paths.Shared("mos_demo-box")
	if err := os.MkdirAll(dest+"/former", 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for {
			if found, _ := filepath.Glob(filepath.Dir(dest) + "/.*.partial/file"); found != nil {
				cancel()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	within(t, 8*time.Second, "pull", func() {
		if _, err := Pull(ctx, c, g.paths, quiet(), PullOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want the context's", err)
		}
	})
	onlyChild(t, filepath.Dir(dest), "mos_demo-box")
	onlyChild(t, dest, "former")
}

func TestPullLimits(t *testing.T) {
	g := newGuest(t, nil)
	makeTree(t, filepath.Join(g.shared(), "tree"))
	c := g.dial()
	for words, o := range map[string]PullOptions{
		"more than 20 entries": {MaxFiles: 20}, "more than 1.0 MiB": {MaxSize: 1 << 20},
	} {
		if _, err := Pull(t.Context(), c, g.paths, quiet(), o); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("error %v, want %q", err, words)
		}
		if entries, err := os.ReadDir(filepath.Dir(g.paths.Shared("mos_demo-box"))); err == nil && len(entries) > 0 {
			t.Errorf("%v is left", entries)
		}
	}
}

func TestPullRemovesWhatWasKilled(t *testing.T) {
	g := newGuest(t, nil)
	g.shared()
	dest := g.paths.Shared("mos_demo-box")
	if err := os.MkdirAll(filepath.Dir(dest)+"/.mos_demo-box.123.partial/x", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Pull(t.Context(), g.dial(), g.paths, quiet(), PullOptions{}); err != nil {
		t.Fatal(err)
	}
	onlyChild(t, filepath.Dir(dest), "mos_demo-box")
}

func TestPullWithoutFolder(t *testing.T) {
	g := newGuest(t, nil)
	_, err := Pull(t.Context(), g.dial(), g.paths, quiet(), PullOptions{})
	if err == nil || !strings.Contains(err.Error(), "no folder ~/mos-shared") {
		t.Errorf("error %v", err)
	}
}

func TestSummary(t *testing.T) {
	s := Summary{Files: 3, Folders: 2, Bytes: 1258291, Took: 800 * time.Millisecond}
	want(t, "summary", s.String(), "3 files, 2 folders, 1.2 MiB in 0.8 s")
	want(t, "summary", Summary{Files: 1, Links: 1, Bytes: 5}.String(), "1 file, 1 link, 5 B in 0.0 s")
}

func TestProgressOnlyOnTerminal(t *testing.T) {
	var b bytes.Buffer
	p := showProgress(&ui.Streams{Err: &b}, "pulling", 100)
	p.moved(50)
	p.end()
	want(t, "output", b.String(), "")
	master, tty := openPTY(t)
	screen := seen(master)
	p = showProgress(&ui.Streams{Err: tty}, "pulling x", 100)
	p.moved(50)
	eventually(t, "a line", func() bool { return strings.Contains(screen(), "meros: pulling x") })
	p.end()
}
