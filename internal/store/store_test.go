package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"meros/internal/layout"
	"meros/internal/store"
)

func open(t *testing.T) (store.Store, string) {
	t.Helper()
	root := t.TempDir()
	return store.Open(layout.Paths{Root: root}, "", os.RemoveAll), root
}

func begin(t *testing.T, s store.Store, key store.Key) *store.Pending {
	t.Helper()
	p, err := s.New(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.FS(), "file"), []byte(key), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestLayerAppearsWhenCommitted(t *testing.T) {
	s, _ := open(t)
	p := begin(t, s, "k")
	if _, ok := s.Layer("k"); ok {
		t.Error("a layer in the making is in the store")
	}
	l, err := p.Commit()
	if err != nil {
		t.Fatal(err)
	}
	got, ok := s.Layer("k")
	if !ok || got != l {
		t.Errorf("Layer = %v, %v, want %v", got, ok, l)
	}
	if _, err := os.Stat(filepath.Join(got.FS(), "file")); err != nil {
		t.Error(err)
	}
	if err := s.Remove("k"); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Layer("k"); ok {
		t.Error("a removed layer is in the store")
	}
}

func TestSecondCommitOfAKeyKeepsTheFirst(t *testing.T) {
	s, root := open(t)
	a, b := begin(t, s, "k"), begin(t, s, "k")
	first, err := a.Commit()
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.Commit()
	if err != nil || second != first {
		t.Errorf("second Commit = %v, %v, want %v", second, err, first)
	}
	if left, _ := filepath.Glob(filepath.Join(root, "data/build/cache/pending/*")); len(left) != 0 {
		t.Errorf("left in the making: %v", left)
	}
}

func TestSweepTakesOnlyWhatNobodyMakes(t *testing.T) {
	s, root := open(t)
	alive := begin(t, s, "alive")
	dead := filepath.Join(root, "data/build/cache/pending/dead-1")
	if err := os.MkdirAll(filepath.Join(dead, "fs", "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); !os.IsNotExist(err) {
		t.Errorf("a dead build's layer is still there: %v", err)
	}
	if _, err := os.Stat(alive.FS()); err != nil {
		t.Errorf("a living build's layer was swept: %v", err)
	}
	if err := alive.Discard(); err != nil {
		t.Error(err)
	}
}

func sum(t *testing.T, dir string) store.Key {
	t.Helper()
	k := store.NewKey("test")
	if err := k.AddTree("tree", dir); err != nil {
		t.Fatal(err)
	}
	return k.Sum()
}

func TestTreeKeyChangesWithAllThatIsLaid(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a")
	write := func(content string) {
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	write("1")
	seen := map[store.Key]string{sum(t, dir): "first"}
	if got := sum(t, dir); seen[got] == "" {
		t.Error("the same tree has two keys")
	}
	for what, change := range map[string]func() error{
		"content": func() error { write("2"); return nil },
		"mode":    func() error { return os.Chmod(file, 0o4755) },
		"time":    func() error { return os.Chtimes(file, time.Unix(2, 0), time.Unix(2, 0)) },
		"link":    func() error { return os.Symlink("a", filepath.Join(dir, "l")) },
		"name":    func() error { return os.Rename(file, filepath.Join(dir, "b")) },
		"removed": func() error { return os.Remove(filepath.Join(dir, "l")) },
		"folder":  func() error { return os.Mkdir(filepath.Join(dir, "sub"), 0o755) },
		"xattr":   func() error { return unix.Setxattr(file, "user.meros", []byte("x"), 0) },
	} {
		write("1")
		os.Remove(filepath.Join(dir, "b"))
		if what == "removed" {
			if err := os.Symlink("x", filepath.Join(dir, "l")); err != nil && !os.IsExist(err) {
				t.Fatal(err)
			}
		}
		before := sum(t, dir)
		if err := change(); errors.Is(err, unix.ENOTSUP) {
			t.Logf("%s: %v", what, err) // a file system without them
			continue
		} else if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if sum(t, dir) == before {
			t.Errorf("a change of %s left the key as it was", what)
		}
	}
}

func TestTreeKeyTellsTwoNamesFromTwoFiles(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, name := range []string{first, second} {
		if err := unix.Mkfifo(name, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	two := sum(t, dir)
	if err := errors.Join(os.Remove(second), os.Link(first, second)); err != nil {
		t.Fatal(err)
	}
	if sum(t, dir) == two {
		t.Error("one pipe of two names has the key of two pipes")
	}
}

func TestKeyPiecesDoNotRunTogether(t *testing.T) {
	a := store.NewKey("s").Add("x", "a", "b").Sum()
	for name, other := range map[string]store.Key{
		"joined": store.NewKey("s").Add("x", "ab").Sum(),
		"split":  store.NewKey("s").Add("x", "a").Add("b").Sum(),
		"order":  store.NewKey("s").Add("x", "b", "a").Sum(),
	} {
		if other == a {
			t.Errorf("%s: two lists of pieces have one key", name)
		}
	}
}

// The downloads beside the layers are those of all users.
func TestOwnHeedsBuildsOfOtherUsers(t *testing.T) {
	paths := layout.Paths{Root: t.TempDir()}
	release, err := store.Open(paths, "1000", os.RemoveAll).Use()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if _, err := store.Open(paths, "", os.RemoveAll).Own(); !errors.Is(err, store.ErrInUse) {
		t.Errorf("Own during another user's build = %v, want ErrInUse", err)
	}
}

func TestOwnWaitsForNoBuild(t *testing.T) {
	s, _ := open(t)
	release, err := s.Use()
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.Use()
	if err != nil {
		t.Fatalf("a second build may not use the store: %v", err)
	}
	second()
	if _, err := s.Own(); !errors.Is(err, store.ErrInUse) {
		t.Errorf("Own during a build = %v, want ErrInUse", err)
	}
	release()
	own, err := s.Own()
	if err != nil {
		t.Fatalf("Own after the builds: %v", err)
	}
	own()
}

// A layer holds what is meant for the guest: no other account of the host gets at it,
// be the store of an earlier meros or new.
func TestNobodyElseGetsAtLayers(t *testing.T) {
	s, root := open(t)
	cache := filepath.Join(root, "data/build/cache")
	if err := os.MkdirAll(filepath.Join(cache, "layers"), 0o755); err != nil {
		t.Fatal(err)
	}
	pending := begin(t, s, "a")
	if _, err := begin(t, s, "b").Commit(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"layers", "layers/b", "pending", filepath.Join("pending", filepath.Base(filepath.Dir(pending.FS())))} {
		info, err := os.Stat(filepath.Join(cache, dir))
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode != 0o700 {
			t.Errorf("the mode of %s is %o, want 700", dir, mode)
		}
	}
	if info, err := os.Stat(pending.FS()); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the rootfs's own / is %v, %v, want 755", info.Mode(), err)
	}
}
