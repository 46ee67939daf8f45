package lifecycle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/layout"
	"meros/internal/mirror"
	"meros/internal/proc"
	"meros/internal/rootfs"
	"meros/internal/store"
	"meros/internal/ui"
)

// planned is the work on a target whose tree is the same each time.
func planned(t *testing.T, b Builder, change func(*family.Target)) *work {
	t.Helper()
	target := &family.Target{Family: "mos_a", Name: "b", Hostname: "b", Rootfs: true, Kernel: family.KernelNone}
	change(target)
	w := &work{Builder: b, t: target, stages: []rootfs.Stage{{Name: "files", Key: "tree"}}}
	if err := w.plan(); err != nil {
		t.Fatal(err)
	}
	return w
}

// program puts a program of the host into dir.
func program(t *testing.T, dir, name, content string) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
}

// An image is made anew with another version of what makes it, and of no other tool.
func TestImageKeyChangesWithTheTools(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	b := Builder{Paths: layout.Paths{Root: t.TempDir()}}
	compressed := func(x *family.Target) { x.Compress = true }
	plain := func(*family.Target) {}
	for _, name := range []string{"mke2fs", "sfdisk", "qemu-img", "e2fsck"} {
		program(t, bin, name, "1")
	}
	for name, want := range map[string]bool{"mke2fs": true, "sfdisk": true, "qemu-img": false, "e2fsck": false} {
		before, small := planned(t, b, plain), planned(t, b, compressed)
		program(t, bin, name, "longer")
		after := planned(t, b, plain)
		if changed := after.key != before.key; changed != want {
			t.Errorf("another %s: the key changed is %v, want %v", name, changed, want)
		}
		if changes := store.Changes(before.reads, after.reads, rootfs.Below); want && !slices.Equal(changes, []string{"tool changed: " + name}) {
			t.Errorf("another %s: the plan says %q", name, changes)
		}
		if changed := planned(t, b, compressed).key != small.key; changed != (name != "e2fsck") {
			t.Errorf("another %s, compressed: the key changed is %v", name, changed)
		}
	}
}

// A kernel that lies beside the image, and one that the tree brings, are no part of
// what is packed: the stages tell what the tree has of it.
func TestImageKeyDoesNotDependOnTheKernelBesideIt(t *testing.T) {
	b := Builder{Paths: layout.Paths{Root: t.TempDir()}}
	none := planned(t, b, func(*family.Target) {})
	for _, mode := range []family.KernelMode{family.KernelSource, family.KernelPrebuilt} {
		if w := planned(t, b, func(x *family.Target) { x.Kernel = mode }); w.key != none.key {
			t.Errorf("kernel=%q: %q", mode, store.Changes(none.reads, w.reads, rootfs.Below))
		}
	}
}

func TestFailedStageTellsItsLastLines(t *testing.T) {
	printed := &ui.Tail{}
	fmt.Fprint(printed, strings.Repeat("early\n", 100)+"Setting up foo\nfoo: no\n")
	err := withLast(hint.Add(errors.New("install packages: exit status 100"), "do"), printed)
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 1+stageTail || lines[0] != "install packages: exit status 100" || lines[stageTail] != "    foo: no" || len(hint.Of(err)) != 1 {
		t.Errorf("withLast = %q, hints %q", lines, hint.Of(err))
	}
}

// count is a stage that takes its time and leaves a mark in a file of the host.
func count(_ context.Context, _ proc.Runner, root, marks string) error {
	time.Sleep(200 * time.Millisecond)
	f, err := os.OpenFile(marks, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString("x")
	return errors.Join(err, f.Close(), os.WriteFile(filepath.Join(root, "made"), nil, 0o644))
}

func TestTargetsWithOneBaseMakeItOnce(t *testing.T) {
	b := stageBuilder(t)
	board := b.Board()
	defer board.Close()
	marks := filepath.Join(t.TempDir(), "marks")
	base := rootfs.Stage{Name: "bootstrap", Step: "count", Key: "base", Base: true, Args: func(string) any { return marks }}
	var both sync.WaitGroup
	for _, name := range []string{"one", "two"} {
		w := stageWork(t, b, board, name)
		both.Go(func() {
			l, err := w.stage(t.Context(), base, nil, 0)
			if err != nil || !exists(filepath.Join(l.FS(), "made")) {
				t.Errorf("%s: %+v, %v", name, l, err)
			}
		})
	}
	both.Wait()
	if content, err := os.ReadFile(marks); string(content) != "x" || err != nil {
		t.Errorf("the base was made %d times, %v, want once", len(content), err)
	}
}

// A base that is kept takes no security updates: the plan tells its day.
func TestPlanTellsTheDayOfABase(t *testing.T) {
	var out bytes.Buffer
	w := packed(t)
	w.Streams = &ui.Streams{Out: &out}
	w.store = w.openStore(t.Context())
	w.stages = []rootfs.Stage{{Name: "bootstrap", Key: "base", Base: true}, {Name: "files", Key: "files"}}
	for _, s := range w.stages {
		p, err := w.store.New(s.Key)
		if err == nil {
			err = os.Chtimes(p.Out(), time.Time{}, time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local))
		}
		if err == nil {
			_, err = p.Commit()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.explain(); err != nil {
		t.Fatal(err)
	}
	want := "mos_a-b  bootstrap  kept, packages of 2026-03-01: --refresh takes those of today\nmos_a-b  files      kept\nmos_a-b  pack       again: not done yet\n"
	if out.String() != want {
		t.Errorf("plan:\n%swant:\n%s", &out, want)
	}
}

// stageBuilder has what stages need that run in sandboxes of the test's own.
func stageBuilder(t *testing.T) Builder {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	b := Builder{Streams: &ui.Streams{Err: io.Discard}, Runner: proc.Host{}, Paths: layout.Paths{Root: t.TempDir()}, making: newMaking()}
	var err error
	if b.proxy, err = mirror.Start(t.TempDir(), true, b.Paths.Owner.Give); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.proxy.Close() })
	return b
}

// stageWork is the work on a target that has a place for its tree.
func stageWork(t *testing.T, b Builder, board *ui.Board, name string) *work {
	t.Helper()
	w := &work{Builder: b, t: &family.Target{Family: "f", Name: name}, store: b.openStore(t.Context()), log: io.Discard, line: board.Line(name)}
	if err := b.Paths.MkdirAll(w.chroot(), 0o755); err != nil {
		t.Fatal(err)
	}
	return w
}

// A recipe that changes while a stage reads it leaves nothing under the key of what
// it was before.
func TestRecipeThatChangesMeanwhileFailsTheBuild(t *testing.T) {
	b := stageBuilder(t)
	board := b.Board()
	defer board.Close()
	marks := filepath.Join(t.TempDir(), "marks") // what the stage reads, and changes
	read := func() (*store.KeyBuilder, error) {
		key := store.NewKey("files")
		return key, key.AddTree("includes", marks)
	}
	first, err := read()
	if err != nil {
		t.Fatal(err)
	}
	s := rootfs.Stage{Name: "files", Step: "count", Base: true, Key: first.Sum(), Reads: first.Pieces(), Reread: read, Args: func(string) any { return marks }}
	w := stageWork(t, b, board, "one")
	_, err = w.stage(t.Context(), s, nil, 0)
	if err == nil || err.Error() != "the recipe changed while it was built: includes changed: +." || len(hint.Of(err)) == 0 {
		t.Errorf("stage: %v, hints %q", err, hint.Of(err))
	}
	if keys, err := w.store.Keys(); len(keys) != 0 || err != nil {
		t.Errorf("kept: %q, %v", keys, err)
	}
	if left, err := os.ReadDir(filepath.Join(b.Paths.Cache(), "pending")); len(left) != 0 || err != nil {
		t.Errorf("left in the making: %v, %v", left, err)
	}
}

// A plan leaves nothing behind: neither keys nor folders, and not even what it has
// learned of the host's mirrors.
func TestPlanWritesNothing(t *testing.T) {
	var out strings.Builder
	b := Builder{Streams: &ui.Streams{Out: &out, Err: io.Discard}, Runner: proc.Host{}, Paths: layout.Paths{Root: t.TempDir()}}
	targets := []*family.Target{
		{Family: "f", Name: "a", Rootfs: true, Distro: "alpine", Release: "3.20", Mirror: "http://127.0.0.1:1", Kernel: family.KernelNone},
		{Family: "f", Name: "o", Rootfs: true, Distro: "alpine", Release: "3.20", Mirror: "http://127.0.0.1:1", Kernel: family.KernelNone, Optional: true},
	}
	if _, err := proc.Find("mmdebstrap"); err == nil {
		targets = append(targets, &family.Target{Family: "f", Name: "d", Rootfs: true, Distro: "debian", Release: "bookworm", Kernel: family.KernelNone})
	}
	if err := b.Build(t.Context(), &family.Family{Name: "f", Targets: targets}, targets, BuildOptions{Plan: true}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"f-a  pack       again: not done yet", "f-o: left out"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the plan lacks %q:\n%s", want, &out)
		}
	}
	if left, err := os.ReadDir(b.Paths.Root); err != nil || len(left) != 0 {
		t.Errorf("a plan has left %v, %v, want nothing", left, err)
	}
}
