package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/proc"
	"meros/internal/ui"
)

func TestInPlace(t *testing.T) {
	if got := string(inPlace([]byte("a\nb\n"), false)); got != "a\nb\n" {
		t.Errorf("not on a terminal: %q", got)
	}
	if got, want := string(inPlace([]byte("a\nb\n"), true)), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J"; got != want {
		t.Errorf("on a terminal: %q, want %q", got, want)
	}
}

// pages keeps what is written, each time, and tells how often that was.
type pages struct {
	all  []string
	turn func(n int)
}

func (p *pages) Write(b []byte) (int, error) {
	p.all = append(p.all, string(b))
	p.turn(len(p.all))
	return len(b), nil
}

// What has changed is on the next page, and an interrupt ends it.
func TestWatchInfo(t *testing.T) {
	root := t.TempDir()
	family := func(name string) {
		dir := filepath.Join(root, "conf/target", name, "build")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "box.xml"), []byte(`<target><build id="box" kernel="no"/></target>`), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	family("one")
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out := &pages{turn: func(n int) {
		if n == 1 {
			family("two")
		} else {
			interrupt()
		}
	}}
	e := &env{Streams: &ui.Streams{Out: out, Err: &strings.Builder{}}, Runner: proc.Host{}, Getenv: func(name string) string {
		return map[string]string{"MEROS_ROOT": root, "MEROS_LIBVIRT_URI": "qemu:///system?socket=" + root + "/none"}[name]
	}}
	err := watchInfo(ctx, e, infoOptions{output: "text"})
	if got := exitStatus(ctx, err); got != exitInterrupted {
		t.Errorf("exit status %d, want %d: %v", got, exitInterrupted, err)
	}
	if len(out.all) != 2 || strings.Contains(out.all[0], "two-box") || !strings.Contains(out.all[1], "two-box") {
		t.Errorf("the pages are %q", out.all)
	}
}
