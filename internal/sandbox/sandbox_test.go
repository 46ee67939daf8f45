package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meros/internal/hint"
	"meros/internal/proc"
	"meros/internal/sandbox"
)

type args struct{ Word string }

// steps are what the sandboxes of these tests can do.
var steps = map[string]sandbox.Step{
	"write": sandbox.Bind(func(_ context.Context, _ proc.Runner, root string, a args) error {
		fmt.Println("writing", a.Word)
		return errors.Join(
			os.WriteFile(filepath.Join(root, "new"), []byte(a.Word), 0o644),
			os.Remove(filepath.Join(root, "old")),
		)
	}),
	"nobody": sandbox.Bind(func(ctx context.Context, r proc.Runner, root string, _ args) error {
		return r.Run(ctx, proc.Cmd{Argv: []string{"setpriv", "--reuid=65534", "--clear-groups", "test", "-r", filepath.Join(root, "file")}})
	}),
	"fail": sandbox.Bind(func(context.Context, proc.Runner, string, args) error {
		return hint.Add(fmt.Errorf("no tool: %w", proc.ErrNotFound), "install it")
	}),
	"mount": sandbox.Bind(func(_ context.Context, _ proc.Runner, root string, _ args) error {
		_, err := sandbox.MountChroot(root)
		if err != nil {
			return err
		}
		for _, name := range []string{"proc/self/status", "sys/kernel", "dev/null", "dev/pts/ptmx", "run", "tmp"} {
			if _, err := os.Stat(filepath.Join(root, name)); err != nil {
				return err
			}
		}
		return nil
	}),
	"hang": sandbox.Bind(func(ctx context.Context, r proc.Runner, _ string, a args) error {
		if os.Getpid() != 1 {
			return errors.New("not the first process of a namespace")
		}
		// A daemon of a hook: out of its group and session, without our streams.
		return r.Run(ctx, proc.Cmd{Argv: []string{"sh", "-c", "setsid sleep " + a.Word + " & touch /tmp/started-" + a.Word + "; sleep 1000"}})
	}),
}

func TestMain(m *testing.M) {
	if sandbox.IsInit(os.Args) {
		os.Exit(sandbox.Init(steps))
	}
	os.Exit(m.Run())
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func mkdirs(t *testing.T, names ...string) []string {
	t.Helper()
	dir := t.TempDir()
	for i, name := range names {
		names[i] = filepath.Join(dir, name)
		if err := os.Mkdir(names[i], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return names
}

func mounts(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRunKeepsLowerAndWritesUpper(t *testing.T) {
	needRoot(t)
	d := mkdirs(t, "root", "lower", "upper", "work")
	if err := os.WriteFile(filepath.Join(d[1], "old"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	before := mounts(t)
	var log bytes.Buffer
	spec := sandbox.Spec{Step: "write", Args: args{"hello"}, Tree: sandbox.Tree{Root: d[0], Lower: d[1:2], Upper: d[2], Work: d[3]}}
	if err := sandbox.Run(t.Context(), proc.Host{}, spec, &log); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(d[2], "new")); err != nil || string(got) != "hello" {
		t.Errorf("upper/new = %q, %v, want hello", got, err)
	}
	if _, err := os.Stat(filepath.Join(d[1], "old")); err != nil {
		t.Errorf("the lower folder was changed: %v", err)
	}
	if got, want := log.String(), "writing hello\n"; got != want {
		t.Errorf("log = %q, want %q", got, want)
	}
	if after := mounts(t); after != before {
		t.Errorf("mounts after the step:\n%s\nwant those before:\n%s", after, before)
	}
}

// A program of a step that is neither root nor the caller, as apt's downloads are,
// reaches a tree that lies where only its owner may look.
func TestTreeInAClosedFolderIsOpenInside(t *testing.T) {
	needRoot(t)
	root, err := os.MkdirTemp("", "sandbox-") // t.TempDir is closed itself
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	upper := filepath.Join(mkdirs(t, "closed")[0], "upper")
	err = errors.Join(os.Chmod(root, 0o755), os.Chmod(filepath.Dir(upper), 0o700), os.Mkdir(upper, 0o755),
		os.WriteFile(filepath.Join(upper, "file"), nil, 0o644))
	if err != nil {
		t.Fatal(err)
	}
	before := mounts(t)
	spec := sandbox.Spec{Step: "nobody", Args: args{}, Tree: sandbox.Tree{Root: root, Upper: upper}}
	if err := sandbox.Run(t.Context(), proc.Host{}, spec, os.Stderr); err != nil {
		t.Error(err)
	}
	if after := mounts(t); after != before {
		t.Errorf("mounts after the step:\n%s\nwant those before:\n%s", after, before)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) != 0 {
		t.Errorf("%d files at the mount point, %v, want none", len(left), err)
	}
}

func TestErrorsKeepHintsAndKind(t *testing.T) {
	needRoot(t)
	err := sandbox.Run(t.Context(), proc.Host{}, sandbox.Spec{Step: "fail", Args: args{}, Tree: sandbox.Tree{Root: t.TempDir()}}, os.Stderr)
	if !errors.Is(err, proc.ErrNotFound) || !strings.HasPrefix(err.Error(), "no tool: ") {
		t.Errorf("Run = %v, want the step's error, wrapping ErrNotFound", err)
	}
	if got := hint.Of(err); len(got) != 1 || got[0] != "install it" {
		t.Errorf("hints = %q, want the step's", got)
	}
}

func TestMountChrootEndsWithTheStep(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	before := mounts(t)
	if err := sandbox.Run(t.Context(), proc.Host{}, sandbox.Spec{Step: "mount", Args: args{}, Tree: sandbox.Tree{Root: root}}, os.Stderr); err != nil {
		t.Fatal(err)
	}
	if after := mounts(t); after != before {
		t.Errorf("mounts after the step:\n%s\nwant those before:\n%s", after, before)
	}
	if left, _ := os.ReadDir(filepath.Join(root, "dev")); len(left) != 0 {
		t.Errorf("%d files left in /dev, want none", len(left))
	}
}

func TestCancelKillsEveryProcessOfTheStep(t *testing.T) {
	needRoot(t)
	// A number that no other process sleeps.
	word := fmt.Sprintf("7%d", os.Getpid())
	marker := "/tmp/started-" + word
	t.Cleanup(func() { os.Remove(marker) })
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for range 200 {
			if _, err := os.Stat(marker); err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		cancel()
	}()
	err := sandbox.Run(ctx, proc.Host{}, sandbox.Spec{Step: "hang", Args: args{word}, Tree: sandbox.Tree{Root: t.TempDir()}}, os.Stderr)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want context.Canceled", err)
	}
	if running(t, "sleep\x00"+word) {
		t.Error("a process of the step outlived it")
	}
}

func running(t *testing.T, cmdline string) bool {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if b, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(b), cmdline) {
			return true
		}
	}
	return false
}

func TestUnknownStepIsAnError(t *testing.T) {
	needRoot(t)
	err := sandbox.Run(t.Context(), proc.Host{}, sandbox.Spec{Step: "nonsense", Tree: sandbox.Tree{Root: t.TempDir()}}, os.Stderr)
	if err == nil || !strings.Contains(err.Error(), `no step "nonsense"`) {
		t.Errorf("Run = %v, want an error naming the step", err)
	}
}
