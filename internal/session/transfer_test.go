package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"meros/internal/layout"
	"meros/internal/ui"
	"meros/internal/ui/uitest"
)

// wantRoundTrip pushes a tree and pulls it again.
func wantRoundTrip(t *testing.T, c *Conn, paths layout.Paths) {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "tree")
	makeTree(t, tree)
	if _, _, err := Push(t.Context(), c, quiet(), []string{tree}, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Pull(t.Context(), c, paths, quiet(), PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(describe(t, tree, pulledMode), describe(t, filepath.Join(paths.Shared(c.fullID), "tree"), pulledMode)); d != "" {
		t.Errorf("pulled (-want +got):\n%s", d)
	}
}

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
	for i := range 2 { // the second finds all there
		done, where, err := Push(t.Context(), c, quiet(), []string{tree, tree + "/big"}, PushOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want(t, "where", where, "mos_demo-box:~/mos-shared/")
		counts := [][]int{{71, 5, 3, 0}, {0, 5, 0, 74}}
		want(t, "files, folders, links, same", []int{done.Files, done.Folders, done.Links, done.Same}, counts[i])
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

// largeContent is so much that no push of it is over at once.
func largeContent(mib int) []byte {
	b := make([]byte, mib<<20)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rand.Uint64())
	}
	return b
}

// awaitSize waits until a file that the pattern matches has that many bytes.
func awaitSize(pattern string, size int64) {
	for range 5000 {
		found, _ := filepath.Glob(pattern)
		for _, file := range found {
			if info, err := os.Stat(file); err == nil && info.Size() >= size {
				return
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// breakPush has a push break off once the guest has that many bytes of the file.
func breakPush(t *testing.T, g *guest, file string, size int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		awaitSize(g.home+"/mos-shared/.meros-*.partial", size)
		cancel()
	}()
	within(t, 20*time.Second, "push", func() {
		if _, _, err := Push(ctx, g.dial(), quiet(), []string{file}, PushOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want the context's", err)
		}
	})
}

func TestPushCancelled(t *testing.T) {
	g := newGuest(t, nil)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, largeContent(7), 0o644); err != nil { // too little to be kept
		t.Fatal(err)
	}
	g.shared()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Push(ctx, g.dial(), quiet(), []string{file}, PushOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the context's", err)
	}
	onlyChild(t, g.home, "mos-shared")
	noPartials(t, g.home)
}

func TestPushGoesOn(t *testing.T) {
	g := newGuest(t, nil)
	g.shared()
	file, content := filepath.Join(t.TempDir(), "file"), largeContent(96)
	if err := os.WriteFile(file, content, 0o640); err != nil {
		t.Fatal(err)
	}
	for _, spoil := range []bool{false, true} {
		breakPush(t, g, file, 24<<20)
		left, _ := filepath.Glob(g.home + "/mos-shared/.meros-*.partial")
		want(t, "parts left", len(left), 1)
		if info, err := os.Stat(g.home + "/mos-shared/file"); err == nil {
			t.Fatalf("in place is %v, of a push that broke off", info)
		}
		if spoil {
			f, err := os.OpenFile(left[0], os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte("spoilt"), 5<<20); err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
		}
		done, _, err := Push(t.Context(), g.dial(), quiet(), []string{file}, PushOptions{Checksum: true})
		if err != nil {
			t.Fatal(err)
		}
		if resumed := done.Bytes < int64(len(content)); resumed == spoil {
			t.Errorf("spoilt %t: the second push sent %d of %d bytes", spoil, done.Bytes, len(content))
		}
		if got, err := os.ReadFile(g.home + "/mos-shared/file"); err != nil || !bytes.Equal(got, content) {
			t.Errorf("the file is not what was pushed: %d bytes, %v", len(got), err)
		}
		onlyChild(t, g.home+"/mos-shared", "file")
		if err := os.Remove(g.home + "/mos-shared/file"); err != nil {
			t.Fatal(err)
		}
	}
}

// Many small files go on as well, whether the push was ended or the link was.
func TestPushOfManyGoesOn(t *testing.T) {
	g := newGuest(t, nil)
	in := g.shared()
	tree := filepath.Join(t.TempDir(), "tree")
	const files, size = 5000, 4 << 10
	content := largeContent(1)
	for i := range files {
		file := filepath.Join(tree, fmt.Sprint(i%7), fmt.Sprint(i))
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, content[i:i+size], 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	unpacked := func() int {
		found, _ := filepath.Glob(in + "/.meros-*.partial/tree/*/*")
		return len(found)
	}
	breakOff := map[string]func(cancel func()){
		"ended": func(cancel func()) { cancel() },
		"lost": func(func()) {
			g.mu.Lock()
			defer g.mu.Unlock()
			for _, conn := range g.conns {
				_ = conn.Close()
			}
		},
	}
	for name, end := range breakOff {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				for unpacked() < files/4 {
					time.Sleep(time.Millisecond)
				}
				end(cancel)
			}()
			if _, _, err := Push(ctx, g.dial(), quiet(), []string{tree}, PushOptions{}); err == nil {
				t.Skip("the push was faster than its end")
			}
			pid := names(t, in)
			if len(pid) == 0 {
				t.Fatal("nothing is left to go on with")
			}
			eventually(t, "the end of what unpacks", func() bool {
				files, _ := filepath.Glob(in + "/.meros-*.partial/.meros-pid")
				number, _ := os.ReadFile(files[0])
				_, err := os.Stat("/proc/" + strings.TrimSpace(string(number)))
				return err != nil
			})
			done, _, err := Push(t.Context(), g.dial(), quiet(), []string{tree}, PushOptions{Checksum: true})
			if err != nil {
				t.Fatal(err)
			}
			if done.Files+done.Same != files || done.Files == 0 || done.Files > files*9/10 || done.Bytes != int64(done.Files)*size {
				t.Errorf("the second push sent %d files, %d bytes, and %d were there", done.Files, done.Bytes, done.Same)
			}
			perm := func(info fs.FileInfo) fs.FileMode { return info.Mode().Perm() }
			if d := cmp.Diff(describe(t, tree, perm), describe(t, in+"/tree", perm)); d != "" {
				t.Errorf("in the guest (-want +got):\n%s", d)
			}
			onlyChild(t, in, "tree")
			if err := removeTree(in + "/tree"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// What a push has left is removed by one that comes a day later, and not before.
func TestPushRemovesOldParts(t *testing.T) {
	g := newGuest(t, nil)
	tree := pushedTree(t)
	in := g.shared()
	old, now := time.Now().Add(-49*time.Hour), time.Now()
	for name, when := range map[string]time.Time{
		".meros-old.partial": old, ".meros-new.partial": now, "tree/.meros-old-1.partial": old, "tree/.meros-new-1.partial": now, ".other.partial": old,
	} {
		file := filepath.Join(in, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o600), os.Chtimes(file, when, when)); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := Push(t.Context(), g.dial(), quiet(), []string{tree}, PushOptions{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	want(t, "after a dry run", len(names(t, in)), 6)
	if _, _, err := Push(t.Context(), g.dial(), quiet(), []string{tree}, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, file := range names(t, in) {
		rel, _ := filepath.Rel(in, file)
		left = append(left, rel)
	}
	want(t, "left", left, []string{".meros-new.partial", ".other.partial", "tree", "tree/.meros-new-1.partial", "tree/file"})
}

func TestPushOnlyWhatDiffers(t *testing.T) {
	g := newGuest(t, nil)
	c, tree := g.dial(), filepath.Join(t.TempDir(), "tree")
	makeTree(t, tree)
	push := func(o PushOptions) Summary {
		t.Helper()
		done, _, err := Push(t.Context(), c, quiet(), []string{tree}, o)
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	push(PushOptions{})
	in := filepath.Join(g.home, "mos-shared", "tree")
	now := time.Now()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(in+"/many/07", []byte("longer"), 0o600)) // another size
	must(os.Chtimes(in+"/many/08", now, now))                  // another time
	must(os.Chmod(in+"/many/09", 0o600))                       // another mode
	must(os.WriteFile(in+"/extra", nil, 0o600))                // ours no more
	must(os.MkdirAll(in+"/more/and/more\nstill", 0o700))       // a folder
	must(os.Remove(in + "/sub/link"))                          // another link
	must(os.Symlink("/elsewhere", in+"/sub/link"))             //
	var out bytes.Buffer
	_, _, err := Push(t.Context(), c, &ui.Streams{Out: &out, Err: io.Discard}, []string{tree}, PushOptions{DryRun: true, Delete: true})
	must(err)
	want(t, "dry run", out.String(), "send tree/many/07\nsend tree/many/08\nsend tree/sub/link\ndelete tree/extra\ndelete tree/more\n")
	if _, err := os.Stat(in + "/extra"); err != nil {
		t.Error("a dry run deleted something")
	}
	done := push(PushOptions{Delete: true})
	want(t, "files, links, same, deleted", []int{done.Files, done.Links, done.Same, done.Deleted}, []int{2, 1, 70, 2})
	perm := func(info fs.FileInfo) fs.FileMode { return info.Mode().Perm() }
	if d := cmp.Diff(describe(t, tree, perm), describe(t, in, perm)); d != "" {
		t.Errorf("in the guest (-want +got):\n%s", d)
	}
	// The same size and time, other bytes: only a hash tells.
	when, err := os.Stat(tree + "/many/10")
	must(err)
	must(os.WriteFile(in+"/many/10", []byte{99}, 0o644))
	must(os.Chtimes(in+"/many/10", when.ModTime(), when.ModTime()))
	want(t, "files by time", push(PushOptions{}).Files, 0)
	want(t, "files by hash", push(PushOptions{Checksum: true}).Files, 1)
	want(t, "files by hash", push(PushOptions{Checksum: true}).Files, 0)
}

// Programs of the guest work in the folder that is meant, whatever it is called and
// wherever else the user's shell looks for folders.
func TestProgramsWorkInTheirFolder(t *testing.T) {
	elsewhere := t.TempDir()
	t.Setenv("CDPATH", elsewhere)
	g := newGuest(t, nil)
	c, tree := g.dial(), filepath.Join(t.TempDir(), "tree")
	makeTree(t, tree)
	for _, folder := range []string{"web", "-web"} {
		for _, in := range []string{g.home, elsewhere} {
			if err := os.MkdirAll(filepath.Join(in, folder, "tree/extra"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		done, _, err := Push(t.Context(), c, quiet(), []string{tree}, PushOptions{To: folder, Delete: true, Checksum: true})
		if err != nil {
			t.Errorf("push to %s: %v", folder, err)
		}
		want(t, "deleted", done.Deleted, 1)
		if _, err := os.Stat(filepath.Join(g.home, folder, "tree/extra")); err == nil {
			t.Errorf("%s still has what was to be deleted", folder)
		}
		if _, err := os.Stat(filepath.Join(elsewhere, folder, "tree/extra")); err != nil {
			t.Errorf("something was deleted elsewhere: %v", err)
		}
		dest := filepath.Join(t.TempDir(), "dest")
		for range 2 {
			if _, err := Pull(t.Context(), c, g.paths, quiet(), PullOptions{From: folder, To: dest, Checksum: true}); err != nil {
				t.Errorf("pull from %s: %v", folder, err)
			}
		}
		if d := cmp.Diff(describe(t, tree, pulledMode), describe(t, dest+"/tree", pulledMode)); d != "" {
			t.Errorf("pulled (-want +got):\n%s", d)
		}
	}
}

func TestPushIntoATreeThatIsThere(t *testing.T) {
	g := newGuest(t, nil)
	tree := filepath.Join(t.TempDir(), "tree")
	makeTree(t, tree)
	in := filepath.Join(g.shared(), "tree")
	if err := os.MkdirAll(in+"/many/theirs", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Push(t.Context(), g.dial(), quiet(), []string{tree}, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(in + "/many/theirs"); err != nil {
		t.Errorf("what the guest had is gone: %v", err)
	}
	_ = os.Remove(in + "/many/theirs")
	when := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	_ = os.Chtimes(in+"/many", when, when)
	perm := func(info fs.FileInfo) fs.FileMode { return info.Mode().Perm() }
	if d := cmp.Diff(describe(t, tree, perm), describe(t, in, perm)); d != "" {
		t.Errorf("in the guest (-want +got):\n%s", d)
	}
	noPartials(t, g.home)
}

// makeHoles makes a file of a MiB, a hole, and some bytes.
func makeHoles(t *testing.T, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at, b := range map[int64][]byte{0: largeContent(1), 40 << 20: []byte("end")} {
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(50 << 20); err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || !hasHoles(info) {
		t.Skip("this file system keeps no holes")
	}
}

func TestHolesStayHoles(t *testing.T) {
	g := newGuest(t, nil)
	c, dir := g.dial(), filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	makeHoles(t, dir+"/holes")
	for i := range 2 * archiveFrom { // by SFTP, and by archive
		if i == archiveFrom {
			for n := range archiveFrom {
				if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, n), []byte("x"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		if i%archiveFrom > 0 {
			continue
		}
		if _, _, err := Push(t.Context(), c, quiet(), []string{dir}, PushOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(g.paths.Shared("mos_demo-box")); err != nil {
			t.Fatal(err)
		}
		if _, err := Pull(t.Context(), c, g.paths, quiet(), PullOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{g.home + "/mos-shared/d/holes", g.paths.Shared("mos_demo-box") + "/d/holes"} {
			sameContent(t, dir+"/holes", file)
			if info, err := os.Stat(file); err != nil || !hasHoles(info) {
				t.Errorf("%s has no holes: %v", file, err)
			}
		}
	}
}

func sameContent(t *testing.T, one, other string) {
	t.Helper()
	a, err := os.ReadFile(one)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(other); err != nil || !bytes.Equal(a, b) {
		t.Errorf("%s is not %s: %d and %d bytes, %v", other, one, len(b), len(a), err)
	}
}

func TestPullOnlyWhatDiffers(t *testing.T) {
	g := newGuest(t, nil)
	makeTree(t, filepath.Join(g.shared(), "tree"))
	c, dest := g.dial(), g.paths.Shared("mos_demo-box")
	pull := func(o PullOptions) Summary {
		t.Helper()
		done, err := Pull(t.Context(), c, g.paths, quiet(), o)
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	pull(PullOptions{})
	before := describe(t, dest+"/tree", pulledMode)
	done := pull(PullOptions{})
	want(t, "files, same", []int{done.Files, done.Same}, []int{0, 70})
	if d := cmp.Diff(before, describe(t, dest+"/tree", pulledMode)); d != "" {
		t.Errorf("pulled again (-want +got):\n%s", d)
	}
	in := filepath.Join(g.home, "mos-shared", "tree")
	when := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	for _, err := range []error{
		os.WriteFile(in+"/many/07", []byte("longer"), 0o644), os.Remove(in + "/many/08"),
		os.WriteFile(in+"/many/09", []byte{77}, 0o644), os.Chtimes(in+"/many/09", when, when),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if _, err := Pull(t.Context(), c, g.paths, &ui.Streams{Out: &out, Err: io.Discard}, PullOptions{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, "get tree/many/07\n") || !strings.Contains(got, "delete tree/many/08\n") || strings.Count(got, "get ") != 1 {
		t.Errorf("a dry run says:\n%s", got)
	}
	want(t, "files by time", pull(PullOptions{}).Files, 1)
	want(t, "files by hash", pull(PullOptions{Checksum: true}).Files, 1)
	if d := cmp.Diff(describe(t, in, pulledMode), describe(t, dest+"/tree", pulledMode)); d != "" {
		t.Errorf("pulled (-want +got):\n%s", d)
	}
	onlyChild(t, filepath.Dir(dest), "mos_demo-box")
}

// A dry run says what the pull then does, by whichever measure.
func TestPullDryRun(t *testing.T) {
	g := newGuest(t, nil)
	in := filepath.Join(g.shared(), "tree")
	makeTree(t, in)
	c, dest := g.dial(), g.paths.Shared("mos_demo-box")
	pull := func(o PullOptions) (said string, done Summary) {
		t.Helper()
		var out bytes.Buffer
		done, err := Pull(t.Context(), c, g.paths, &ui.Streams{Out: &out, Err: io.Discard}, o)
		if err != nil {
			t.Fatal(err)
		}
		return out.String(), done
	}
	said, _ := pull(PullOptions{DryRun: true})
	for what, count := range map[string]int{"make ": 5, "get ": 70, "link ": 3} {
		want(t, what, strings.Count(said, what), count)
	}
	pull(PullOptions{})
	for _, checksum := range []bool{false, true} {
		said, _ = pull(PullOptions{DryRun: true, Checksum: checksum})
		want(t, "of what is there", said, "")
	}
	when := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	own := []byte("own")
	for _, err := range []error{
		os.WriteFile(in+"/many/09", []byte{77}, 0o644), os.Chtimes(in+"/many/09", when, when), // only a hash tells
		os.Chmod(in+"/many/10", 0o600), os.Mkdir(in+"/new", 0o755), os.Remove(in + "/many/11"),
		os.Remove(in + "/dangling"), os.Symlink("elsewhere", in+"/dangling"),
		os.WriteFile(in+"/own", own, 0o644), os.Chtimes(in+"/own", when, when), // has no mark
		os.WriteFile(dest+"/tree/own", own, 0o644), os.Chtimes(dest+"/tree/own", when, when),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for checksum, gets := range map[bool]string{false: "", true: "get tree/many/09\n"} {
		said, _ = pull(PullOptions{DryRun: true, Checksum: checksum})
		lines := slices.Sorted(strings.Lines(said))
		want(t, "of what differs", strings.Join(lines, ""), "delete tree/many/11\n"+gets+"get tree/many/10\nget tree/own\nlink tree/dangling\nmake tree/new/\n")
	}
	_, done := pull(PullOptions{Checksum: true})
	want(t, "files", done.Files, 3)
}

// A file of the person's own, which --delete lets a pull replace, is not taken for the
// guest's: all that a pull leaves is marked.
func TestPullMarksEverything(t *testing.T) {
	g := newGuest(t, nil)
	when := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	dest := filepath.Join(t.TempDir(), "own")
	if err := os.Mkdir(dest, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(g.shared()+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{g.shared(), dest} {
		file := filepath.Join(dir, "file")
		if err := errors.Join(os.WriteFile(file, []byte("content"), 0o644), os.Chtimes(file, when, when)); err != nil {
			t.Fatal(err)
		}
	}
	for _, same := range []int{0, 1} {
		var said bytes.Buffer
		done, err := Pull(t.Context(), g.dial(), g.paths, &ui.Streams{Out: io.Discard, Err: &said}, PullOptions{To: dest, Delete: true})
		if err != nil {
			t.Fatal(err)
		}
		want(t, "unchanged", done.Same, same)
		for _, marked := range []string{"file", "sub", "."} {
			checkOrigin(t, filepath.Join(dest, marked))
		}
		want(t, "said", said.String(), "")
	}
}

func TestPullWithoutAttributes(t *testing.T) {
	mark := markOrigin
	t.Cleanup(func() { markOrigin = mark })
	markOrigin = func(int, string) error { return unix.ENOTSUP }
	g := newGuest(t, nil)
	if err := os.Mkdir(g.shared()+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(g.shared(), name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var said bytes.Buffer
	if _, err := Pull(t.Context(), g.dial(), g.paths, &ui.Streams{Out: io.Discard, Err: &said}, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := said.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "not marked as from mos_demo-box") {
		t.Errorf("said: %q", got)
	}
}

// What cannot be marked although others can is not put in place.
func TestPullThatCannotMark(t *testing.T) {
	mark := markOrigin
	t.Cleanup(func() { markOrigin = mark })
	g := newGuest(t, nil)
	if err := errors.Join(os.Mkdir(g.shared()+"/sub", 0o755), os.WriteFile(g.shared()+"/file", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	for nth, name := range []string{"file", "sub", "."} {
		marked := 0
		markOrigin = func(int, string) error {
			if marked++; marked == nth+1 {
				return unix.ENOSPC
			}
			return nil
		}
		_, err := Pull(t.Context(), g.dial(), g.paths, quiet(), PullOptions{})
		if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want that %s cannot be marked", err, name)
		}
		if left, _ := os.ReadDir(filepath.Dir(g.paths.Shared("mos_demo-box"))); len(left) > 0 {
			t.Errorf("%v is left", left)
		}
	}
}

func TestPullGoesOn(t *testing.T) {
	g := newGuest(t, nil)
	content := largeContent(96)
	if err := os.WriteFile(filepath.Join(g.shared(), "file"), content, 0o640); err != nil {
		t.Fatal(err)
	}
	dest := g.paths.Shared("mos_demo-box")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		awaitSize(filepath.Dir(dest)+"/.*.partial/file", 24<<20)
		cancel()
	}()
	if _, err := Pull(ctx, g.dial(), g.paths, quiet(), PullOptions{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want the context's", err)
	}
	done, err := Pull(t.Context(), g.dial(), g.paths, quiet(), PullOptions{Checksum: true})
	if err != nil {
		t.Fatal(err)
	}
	if done.Bytes == 0 || done.Bytes >= int64(len(content)) {
		t.Errorf("the second pull took %d of %d bytes", done.Bytes, len(content))
	}
	sameContent(t, filepath.Join(g.home, "mos-shared/file"), dest+"/file")
	onlyChild(t, filepath.Dir(dest), "mos_demo-box")
}

// What came of one guest is never taken for another's, wherever it was to go.
func TestPullGoesOnWithItsOwn(t *testing.T) {
	g := newGuest(t, nil)
	when := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	small, large := filepath.Join(g.shared(), "a"), filepath.Join(g.shared(), "file")
	write := func(content string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(small, []byte(content), 0o644), os.Chtimes(small, when, when)); err != nil {
			t.Fatal(err)
		}
	}
	write("one's")
	if err := os.WriteFile(large, largeContent(96), 0o640); err != nil {
		t.Fatal(err)
	}
	dest := filepath.Join(t.TempDir(), "in")
	left := func() []string {
		found, _ := filepath.Glob(filepath.Dir(dest) + "/.*.partial")
		return found
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		awaitSize(filepath.Dir(dest)+"/.*.partial/file", 24<<20)
		cancel()
	}()
	if _, err := Pull(ctx, g.dial(), g.paths, quiet(), PullOptions{To: dest}); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want the context's", err)
	}
	want(t, "folders left", len(left()), 1)
	sameContent(t, small, left()[0]+"/a")
	write("two's")
	if err := os.Truncate(large, 0); err != nil {
		t.Fatal(err)
	}
	other := g.dial()
	other.fullID = "mos_demo-other"
	if _, err := Pull(t.Context(), other, g.paths, quiet(), PullOptions{To: dest}); err != nil {
		t.Fatal(err)
	}
	sameContent(t, small, dest+"/a")
	want(t, "folders left for the first", len(left()), 1)
}

// Two targets are not pulled to one folder at once: the second finds what the first has made.
func TestPullToOneFolderAtOnce(t *testing.T) {
	g := newGuest(t, nil)
	g.shared()
	dest := filepath.Join(t.TempDir(), "in")
	unlock, err := g.paths.Lock(t.Context(), lockOf(dest), "pull another", nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	waits := make(chan struct{})
	c, said := g.dial(), writeFunc(func(b []byte) (int, error) { close(waits); return len(b), nil })
	go func() {
		_, err := Pull(t.Context(), c, g.paths, &ui.Streams{Out: io.Discard, Err: said}, PullOptions{To: dest})
		ended <- err
	}()
	select {
	case <-waits:
	case err := <-ended:
		t.Fatalf("it did not wait: %v", err)
	}
	if err := errors.Join(os.Mkdir(dest, 0o755), os.WriteFile(dest+"/theirs", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	unlock()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "holds something") {
		t.Errorf("error %v, want that the folder holds something", err)
	}
}

// A link stays one, and what it leads to is replaced no more easily than if it were named.
func TestPullThroughALink(t *testing.T) {
	g := newGuest(t, nil)
	makeTree(t, filepath.Join(g.shared(), "tree"))
	folder := filepath.Join(t.TempDir(), "real")
	own, named := g.paths.Shared("mos_demo-box"), filepath.Join(t.TempDir(), "link")
	for link, to := range map[string]string{own: "", named: named} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink(folder, link)); err != nil {
			t.Fatal(err)
		}
		pull := func() error {
			_, err := Pull(t.Context(), g.dial(), g.paths, quiet(), PullOptions{To: to})
			return err
		}
		if err := pull(); err == nil || !strings.Contains(err.Error(), "follow the link") {
			t.Errorf("a link that leads nowhere: %v", err)
		}
		if err := errors.Join(os.Mkdir(folder, 0o755), os.WriteFile(folder+"/own", nil, 0o644)); err != nil {
			t.Fatal(err)
		}
		if err := pull(); err == nil || !strings.Contains(err.Error(), "holds something") {
			t.Errorf("a link to a folder of the person's own: %v", err)
		}
		if err := os.Remove(folder + "/own"); err != nil {
			t.Fatal(err)
		}
		if err := pull(); err != nil {
			t.Error(err)
		}
		if at, err := os.Readlink(link); err != nil || at != folder {
			t.Errorf("the link leads to %q, %v", at, err)
		}
		onlyChild(t, folder, "tree")
		onlyChild(t, filepath.Dir(folder), "real")
		if err := removeTree(folder); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPullToAMountPoint(t *testing.T) {
	err := mayReplace(layout.Paths{Root: t.TempDir()}, "/proc", "mos_demo-box", PullOptions{To: "/proc", Delete: true})
	if err == nil || !strings.Contains(err.Error(), "mounted at /proc") {
		t.Errorf("error %v", err)
	}
	if err := mayReplace(layout.Paths{Root: t.TempDir()}, t.TempDir(), "mos_demo-box", PullOptions{}); err != nil {
		t.Error(err)
	}
}

// What came is kept also when it cannot be put in place.
func TestPullThatCannotBePutInPlace(t *testing.T) {
	g := newGuest(t, nil)
	if err := os.WriteFile(filepath.Join(g.shared(), "file"), largeContent(9), 0o640); err != nil {
		t.Fatal(err)
	}
	dest := g.paths.Shared("mos_demo-box")
	swap := swapNames
	t.Cleanup(func() { swapNames = swap })
	swapNames = func(string, string) error { return unix.EBUSY }
	if _, err := Pull(t.Context(), g.dial(), g.paths, quiet(), PullOptions{}); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("error %v", err)
	}
	swapNames = swap
	done, err := Pull(t.Context(), g.dial(), g.paths, quiet(), PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want(t, "bytes, unchanged", []any{done.Bytes, done.Same}, []any{int64(0), 1})
	onlyChild(t, filepath.Dir(dest), "mos_demo-box")
}

func TestPullFromAndTo(t *testing.T) {
	g := newGuest(t, nil)
	makeTree(t, filepath.Join(g.shared(), "tree"))
	c, dir := g.dial(), t.TempDir()
	pull := func(from, to string, replace bool) error {
		_, err := Pull(t.Context(), c, g.paths, quiet(), PullOptions{From: from, To: to, Delete: replace})
		return err
	}
	for range 2 { // the second replaces what the first has made
		if err := pull("mos-shared/tree/sub/deep", dir+"/deep", false); err != nil {
			t.Fatal(err)
		}
	}
	sameContent(t, g.home+"/mos-shared/tree/sub/deep/ü ✓", dir+"/deep/ü ✓")
	if err := pull("~/mos-shared/tree/a", dir+"/one", false); err != nil {
		t.Fatal(err)
	}
	onlyChild(t, dir+"/one", "a")
	if err := os.WriteFile(dir+"/precious", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := pull("", dir, false); err == nil || !strings.Contains(err.Error(), "holds something") {
		t.Errorf("error %v, want that the folder holds something", err)
	}
	if err := pull("", "/", true); err == nil {
		t.Error("a pull replaces /")
	}
	if err := pull("nowhere", dir+"/x", false); err == nil || !strings.Contains(err.Error(), "no folder ~/nowhere") {
		t.Errorf("error %v", err)
	}
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
	left := filepath.Join(filepath.Dir(dest), partialPrefix(dest, "mos_demo-box")+"123.partial")
	if err := errors.Join(os.MkdirAll(left+"/x", 0o755), os.Chmod(left, 0o700)); err != nil {
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
	master, tty := uitest.OpenPTY(t, 100, 30)
	screen := seen(master)
	p = showProgress(&ui.Streams{Err: tty}, "pulling x", 100)
	p.moved(50)
	eventually(t, "a line", func() bool { return strings.Contains(screen(), "meros: pulling x") })
	p.end()
}
