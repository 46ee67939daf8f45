package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// binary is the meros under test, built by TestMain.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if os.Getenv("MEROS_E2E") == "" {
		return m.Run() // every test skips
	}
	if binary = os.Getenv(insideEnv); binary != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "e2e-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// Others than root run it too.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binary = filepath.Join(dir, "meros")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "meros/cmd/meros")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build meros: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

func needHost(t *testing.T) {
	t.Helper()
	if os.Getenv("MEROS_E2E") == "" {
		t.Skip("needs MEROS_E2E=1, as make test sets it")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// newRoot makes a root with the shipped families that libvirt's qemu user can
// reach, and takes it away at the end.
func newRoot(t *testing.T) string {
	t.Helper()
	root, err := os.MkdirTemp("", "e2e-root-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(root, "conf"), os.DirFS("../../conf")); err != nil {
		t.Fatal(err)
	}
	// CopyFS keeps no modes but the run bit's; the recipe needs no more.
	dropOptional(t, root)
	return root
}

// optionalFiles are those of mos_demo's target alpine, whose mirror one host
// reaches and the next does not. Only testOptional has use for it.
var optionalFiles = []string{"build/alpine.xml", "libvirt/alpine.xml", "rootfs/alpine"}

func dropOptional(t *testing.T, root string) {
	t.Helper()
	for _, name := range optionalFiles {
		remove(t, root, "mos_demo/"+name)
	}
}

// result is how a run of meros ended.
type result struct {
	out, err string
	code     int
}

// call is one run of meros to make.
type call struct {
	root  string
	args  []string
	stdin io.Reader
	env   []string
	attr  *syscall.SysProcAttr
}

func (c call) command() (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	var out, errs bytes.Buffer
	cmd := exec.Command(binary, c.args...)
	cmd.Dir = c.root
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.stdin, &out, &errs
	cmd.SysProcAttr = c.attr
	return cmd, &out, &errs
}

func (c call) run(t *testing.T) result {
	t.Helper()
	cmd, out, errs := c.command()
	started := time.Now()
	err := cmd.Run()
	t.Logf("meros %s: %v (%.1f s)", strings.Join(c.args, " "), err, time.Since(started).Seconds())
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

func meros(t *testing.T, root string, args ...string) result {
	t.Helper()
	return call{root: root, args: args}.run(t)
}

// mustRun is meros for what has to succeed.
func mustRun(t *testing.T, root string, args ...string) result {
	t.Helper()
	r := meros(t, root, args...)
	if r.code != 0 {
		t.Fatalf("meros %s: exit status %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r
}

// wantFailure checks the exit status and that each word is in the error.
func wantFailure(t *testing.T, r result, code int, words ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit status %d, want %d\n%s", r.code, code, r.err)
	}
	for _, word := range words {
		if !strings.Contains(r.err, word) {
			t.Errorf("the error lacks %q:\n%s", word, r.err)
		}
	}
	if strings.Contains(r.err, "goroutine ") {
		t.Errorf("a stack trace is no error message:\n%s", r.err)
	}
}

// interrupt runs meros, waits until ready, presses Ctrl-C and returns the end.
func (c call) interrupt(t *testing.T, ready func(errs string) bool) result {
	t.Helper()
	return c.interruptWithin(t, 2*time.Minute, ready)
}

func (c call) interruptWithin(t *testing.T, limit time.Duration, ready func(errs string) bool) result {
	t.Helper()
	cmd, out, _ := c.command()
	errs := &lockedBuffer{}
	cmd.Stderr = errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(limit); !ready(errs.String()); {
		if time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			t.Fatalf("meros %v never came to where it was to be interrupted:\n%s", c.args, errs)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// host is what meros must leave as it was.
type host struct{ mounts, links, rules, processes, temps []string }

func lookAtHost(t *testing.T) host {
	t.Helper()
	h := host{mounts: mountPoints(t), links: names(t, "/sys/class/net/*"), temps: names(t, filepath.Join(os.TempDir(), "meros-*"))}
	if out, err := exec.Command("nft", "list", "tables").Output(); err == nil {
		// libvirt makes tables of its own with its first network, and keeps them.
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "meros") {
				h.rules = append(h.rules, line)
			}
		}
	}
	for _, file := range names(t, "/proc/[0-9]*/cmdline") {
		line, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		// Of this test's: others may work on the host too.
		if words := strings.ReplaceAll(string(line), "\x00", " "); strings.Contains(words, "e2e-root-") || strings.Contains(words, box) {
			h.processes = append(h.processes, words)
		}
	}
	return h
}

func mountPoints(t *testing.T) []string {
	t.Helper()
	content, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(content), "\n")
}

func names(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// wantHost checks that the host is as it was before.
func wantHost(t *testing.T, before host) {
	t.Helper()
	after := lookAtHost(t)
	for what, pair := range map[string][2][]string{
		"mounts": {before.mounts, after.mounts}, "links": {before.links, after.links}, "packet-filter tables": {before.rules, after.rules},
		"processes": {before.processes, after.processes}, "temporary files": {before.temps, after.temps},
	} {
		for _, line := range pair[1] {
			if !slices.Contains(pair[0], line) {
				t.Errorf("%s: left on the host: %s", what, line)
			}
		}
		for _, line := range pair[0] {
			if !slices.Contains(pair[1], line) {
				t.Errorf("%s: taken from the host: %s", what, line)
			}
		}
	}
}

// wantNothingHalfMade checks that no build left anything in the making.
func wantNothingHalfMade(t *testing.T, root string) {
	t.Helper()
	for _, pattern := range []string{"data/build/cache/pending/*", "data/images/*.partial*", "data/images/.*", "data/build/bootstrap/*/*/*"} {
		if left := names(t, filepath.Join(root, pattern)); len(left) != 0 {
			t.Errorf("left half-made: %v", left)
		}
	}
}

// write puts a file into the recipe.
func write(t *testing.T, root, name, content string, mode fs.FileMode) {
	t.Helper()
	path := filepath.Join(root, "conf/target", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, root, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(root, "conf/target", name)); err != nil {
		t.Fatal(err)
	}
}

// replaceIn replaces text in a file of the recipe.
func replaceIn(t *testing.T, root, name, old, now string) {
	t.Helper()
	path := filepath.Join(root, "conf/target", name)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(content), old) {
		t.Fatalf("%s has no %q", name, old)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(content), old, now)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// identity of a file: that it is the very same one, not only an equal one.
func identity(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("inode %d, %d bytes, changed %s", st.Ino, st.Size, info.ModTime())
}

func contains(text, words string) bool { return strings.Contains(text, words) }

func removeAll(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}
