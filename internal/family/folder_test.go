package family_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/layout"
)

// texts loads mos_demo and returns its faults, less the folder they begin with.
func texts(t *testing.T, paths layout.Paths) []string {
	t.Helper()
	_, err := family.Load(paths, "mos_demo")
	faults, _ := errors.AsType[family.Faults](err)
	var got []string
	for _, f := range faults {
		got = append(got, strings.TrimPrefix(f.String(), "conf/target/mos_demo"))
	}
	return got
}

func wantTexts(t *testing.T, paths layout.Paths, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, texts(t, paths)); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

func TestHooksThatCannotRun(t *testing.T) {
	paths := recipe(t, map[string]string{
		"build/box.xml":             boxFile,
		"hooks/10-no-bit":           "#!/bin/sh\n",
		"hooks/20-no-line*":         "echo hello\n",
		"hooks/30-empty*":           "",
		"hooks/40-relative*":        "#!bin/sh\n",
		"hooks/50-crlf*":            "#!/bin/sh\r\n",
		"hooks/60-good*":            "#! /bin/sh -e\n",
		"hooks/70-elf*":             "\x7fELF\x02",
		"hooks/80-folder/x":         "",
		"hooks/pre-strat/x*":        "#!/bin/sh\n",
		"hooks/post-stop":           "",
		"hooks/pre-stop/10-no-bit":  "#!/bin/sh\n",
		"hooks/pre-stop/pre-stop/x": "",
		"rootfs/common/hooks/10-no": "#!/bin/sh\n",
		"rootfs/box/hooks/10-none":  "true\n",
	})
	wantTexts(
		t, paths,
		"/hooks/10-no-bit: the hook has no run bit",
		"/hooks/20-no-line:1: the hook begins with no #! line and is no ELF program",
		"/hooks/30-empty:1: the hook begins with no #! line and is no ELF program",
		`/hooks/40-relative:1: the interpreter must be an absolute path, got "bin/sh"`,
		"/hooks/50-crlf:1: the line ends in a carriage return, which would be part of the interpreter's name",
		"/hooks/80-folder: must be a regular file",
		"/hooks/post-stop: must be a folder",
		"/hooks/pre-stop/10-no-bit: the hook has no run bit",
		"/hooks/pre-stop/pre-stop: must be a regular file",
		"/hooks/pre-strat: is no phase of hooks: was pre-start meant?",
		"/rootfs/box/hooks/10-none: the hook has no run bit",
		"/rootfs/box/hooks/10-none:1: the hook begins with no #! line and is no ELF program",
		"/rootfs/common/hooks/10-no: the hook has no run bit",
	)
	_, err := family.Load(paths, "mos_demo")
	if got := hint.Of(err); len(got) != 5 || got[0] != "chmod +x conf/target/mos_demo/hooks/10-no-bit" {
		t.Errorf("hints = %q, want chmod +x of the first first", got)
	}
}

func TestFilesThatAreNone(t *testing.T) {
	paths := recipe(t, map[string]string{"build/box.xml": boxFile, "build/dir.xml/x": "", "spare/hook*": "#!/bin/sh\n", "spare/in/x": ""})
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(paths.Family("mos_demo"), name) }
	for name, to := range map[string]string{
		"build/abs.xml": outside, "build/up.xml": "../../../../x", "build/none.xml": "gone", "build/loop.xml": "loop.xml",
		"hooks": "spare", "netfilter": outside, "pkg": "gone", "rootfs": "/", "libvirt": "spare/hook",
	} {
		if err := os.Symlink(to, at(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(at("build/pipe.xml"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(at("spare/in")); err != nil {
		t.Fatal(err)
	}
	wantTexts(
		t, paths,
		"/build/abs.xml: a link out of the family's folder is not followed",
		"/build/dir.xml: must be a regular file",
		"/build/loop.xml: cannot be read: too many levels of symbolic links",
		"/build/none.xml: a link to nothing",
		"/build/pipe.xml: must be a regular file",
		"/build/up.xml: a link out of the family's folder is not followed",
		"/libvirt: must be a folder",
		"/netfilter: a link out of the family's folder is not followed",
		"/pkg: a link to nothing",
		"/rootfs: a link out of the family's folder is not followed",
	)
}

func TestSocketIsNoFile(t *testing.T) {
	t.Chdir(t.TempDir()) // the name of a socket is at most 107 bytes: unix(7)
	if err := os.MkdirAll("conf/target/mos_demo/build", 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", "conf/target/mos_demo/build/box.xml")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	wantTexts(t, layout.Paths{Root: root}, "/build/box.xml: must be a regular file")
}

func TestFilesOfTheFamilyMayBeLinks(t *testing.T) {
	paths := recipe(t, map[string]string{"build/box.xml": boxFile, "spare/hook*": "#!/bin/sh\n"})
	dir := paths.Family("mos_demo")
	for name, to := range map[string]string{"hooks": "spare", "spare/again": "hook", "build/twin.xml": "box.xml"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := family.Load(paths, "mos_demo")
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Targets) != 2 || len(f.Hooks[family.HookPostStart]) != 2 {
		t.Errorf("%d targets, hooks %v, want 2 and 2", len(f.Targets), f.Hooks)
	}
}

func TestTooLargeFile(t *testing.T) {
	paths := recipe(t, map[string]string{
		"build/box.xml":   "<target><!--" + strings.Repeat("x", 1<<20) + "--></target>",
		"libvirt/box.xml": "<domain>" + strings.Repeat(" ", 1<<20) + "</domain>",
	})
	wantTexts(t, paths, "/build/box.xml:1: the file is over 1 MiB: no recipe is", "/libvirt/box.xml:1: the file is over 1 MiB: no recipe is")
}

func TestNoTargetAndNoFolder(t *testing.T) {
	paths := recipe(t, map[string]string{"README": "x"})
	wantTexts(t, paths, ": there is no target in it")
	for name, content := range map[string]string{"file": "x"} {
		if err := os.WriteFile(paths.Family(name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("gone", paths.Family("dangling")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"file":     "conf/target/file: cannot be read: not a directory",
		"dangling": "conf/target/dangling: a link to nothing",
	} {
		if _, err := family.Load(paths, name); err == nil || err.Error() != want {
			t.Errorf("Load(%s) = %v, want %s", name, err, want)
		}
	}
}

// asNobody runs f with the file access of an ordinary user, also when the tests
// are root's. setfsuid(2) is of the thread, which ends with f's goroutine.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if os.Geteuid() == 0 {
			_, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0)
		}
		f()
	}()
	<-done
}

func TestUnreadableFilesAreNamed(t *testing.T) {
	paths := recipe(t, map[string]string{
		"build/box.xml": boxFile, "build/web.xml": boxFile, "hooks/10*": "#!/bin/sh\n",
		"libvirt/box.xml": "<domain/>", "rootfs/box/includes.chroot/x": "", "netfilter/a.nft": "",
	})
	for dir := paths.Root; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"build/web.xml", "hooks/10", "libvirt", "netfilter/a.nft", "rootfs/box"} {
		if err := os.Chmod(filepath.Join(paths.Family("mos_demo"), name), 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { // so that the folder can be removed
		for _, name := range []string{"libvirt", "rootfs/box"} {
			_ = os.Chmod(filepath.Join(paths.Family("mos_demo"), name), 0o755)
		}
	})
	const denied = ": cannot be read: permission denied"
	asNobody(t, func() {
		wantTexts(t, paths, "/build/web.xml"+denied, "/hooks/10"+denied, "/libvirt"+denied, "/netfilter/a.nft"+denied, "/rootfs/box"+denied)
	})
}

func TestHookPhases(t *testing.T) {
	paths := recipe(t, map[string]string{
		"build/box.xml": boxFile,
		"hooks/20-b*":   "#!/bin/sh\n", "hooks/post-start/10-a*": "#!/bin/sh\n",
		"hooks/pre-start/2*": "#!/bin/sh\n", "hooks/pre-start/1*": "#!/bin/sh\n",
		"hooks/pre-stop/.hidden*": "", "hooks/post-stop/1*": "#!/bin/sh\n",
	})
	f, err := family.Load(paths, "mos_demo")
	if err != nil {
		t.Fatal(err)
	}
	got := map[family.HookPhase]string{}
	for phase, hooks := range f.Hooks {
		got[phase] = strings.ReplaceAll(strings.Join(hooks, " "), f.Dir+"/hooks/", "")
	}
	want := map[family.HookPhase]string{
		family.HookPreStart: "pre-start/1 pre-start/2", family.HookPostStart: "20-b post-start/10-a", family.HookPostStop: "post-stop/1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("hooks (-want +got):\n%s", diff)
	}
}
