package kernel_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"meros/internal/hint"
	"meros/internal/kernel"
	"meros/internal/layout"
	"meros/internal/proc"
	"meros/internal/ui"
)

// fakeMake does what the kernel's Makefile would: it answers the three calls
// that a build makes of it. The tree's file "act" is what compiling means. How it
// was called is noted beside the tree, which stays as it is.
const fakeMake = `#!/bin/sh
set -e
all=$*
while [ $# -gt 0 ]; do
	case $1 in
	-C) src=$2; shift ;;
	O=*) obj=${1#O=} ;;
	*) goal=$1 ;;
	esac
	shift
done
echo "$goal: nice $(nice) $all" >>"$src/../calls"
case $goal in
allnoconfig) sed '/LOST/d' "$KCONFIG_ALLCONFIG" >"$obj/.config" ;;
kernelrelease) echo 6.1.0-test ;;
bzImage | Image)
	. "$src/act"
	mkdir -p "$obj/arch/x86/boot" "$obj/arch/arm64/boot"
	cat "$obj/.config" >"$obj/arch/x86/boot/bzImage"
	cat "$obj/.config" >"$obj/arch/arm64/boot/Image"
	;;
esac
`

// compilers for x86_64, of this host or of another.
var compilers = []string{"gcc", "x86_64-linux-gnu-gcc"}

// bench is a root, a source tree, and a PATH with programs that do as told.
type bench struct {
	t    *testing.T
	root string
	src  string
	bin  string
	err  bytes.Buffer
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, root: t.TempDir(), src: filepath.Join(t.TempDir(), "linux"), bin: t.TempDir()}
	b.write(filepath.Join(b.root, "conf/kernel/kernel.conf"), "version = 6.1\nfragments = base\n")
	b.write(filepath.Join(b.root, "conf/kernel/base.config"), "CONFIG_A=y\n")
	b.write(filepath.Join(b.root, "conf/kernel/more.config"), "CONFIG_MORE=y\n")
	for name, content := range map[string]string{"Makefile": "", "Kconfig": "", "scripts/kconfig/conf.c": "", "act": "echo '  CC      a.o'\necho '  AS      b.o'\ntouch $obj/a.o $obj/b.o\n"} {
		b.write(filepath.Join(b.src, name), content)
	}
	for _, program := range append(compilers, "ld", "x86_64-linux-gnu-ld", "bc", "bison", "flex", "perl", "xz", "lz4") {
		b.shim(program, "#!/bin/sh\n")
	}
	b.shim("make", fakeMake)
	for _, program := range []string{"sh", "sed", "cat", "mkdir", "nice", "tar", "gzip", "sleep", "touch"} {
		path, err := exec.LookPath(program)
		if err != nil {
			t.Skipf("this host has no %s", program)
		}
		if err := os.Symlink(path, filepath.Join(b.bin, program)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", b.bin)
	return b
}

func (b *bench) write(path, content string) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) shim(name, content string) {
	b.t.Helper()
	b.write(filepath.Join(b.bin, name), content)
	if err := os.Chmod(filepath.Join(b.bin, name), 0o755); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) builder() kernel.Builder {
	return kernel.Builder{Streams: &ui.Streams{Err: &b.err}, Runner: proc.Host{}, Paths: layout.Paths{Root: b.root}}
}

// build builds for x86_64, whatever the host is.
func (b *bench) build(ctx context.Context, o kernel.Options) (kernel.Record, error) {
	o.Arch = "x86_64"
	return b.builder().Build(ctx, o)
}

func (b *bench) mustBuild(o kernel.Options) kernel.Record {
	b.t.Helper()
	r, err := b.build(b.t.Context(), o)
	if err != nil {
		b.t.Fatalf("Build: %v\n%s", err, &b.err)
	}
	return r
}

// calls are how make was called since the last look, a line each.
func (b *bench) calls() string {
	file := filepath.Join(filepath.Dir(b.src), "calls")
	calls, _ := os.ReadFile(file)
	_ = os.Remove(file)
	return string(calls)
}

// compiled counts how often make was asked for a kernel.
func (b *bench) compiled() int { return strings.Count(b.calls(), "bzImage: ") }

func (b *bench) wantError(o kernel.Options, words ...string) {
	b.t.Helper()
	_, err := b.build(b.t.Context(), o)
	if err == nil {
		b.t.Fatalf("Build succeeded, want an error with %q", words)
	}
	all := err.Error() + "\n" + strings.Join(hint.Of(err), "\n")
	for _, w := range words {
		if !strings.Contains(all, w) {
			b.t.Errorf("the error lacks %q:\n%s", w, all)
		}
	}
	if _, err := os.Lstat(filepath.Join(b.root, "data/images/bzImage")); err == nil {
		b.t.Error("a failed build left a kernel")
	}
}

func (b *bench) fromSource() kernel.Options {
	return kernel.Options{Request: kernel.Request{Source: b.src}}
}

func TestBuildOnceForTheSameThings(t *testing.T) {
	b := newBench(t)
	r := b.mustBuild(b.fromSource())
	if r.Release != "6.1.0-test" || r.Objects != 2 || b.compiled() != 1 {
		t.Errorf("record %+v, compiled not once", r)
	}
	target, err := os.Readlink(filepath.Join(b.root, "data/images/bzImage"))
	if err != nil || target != "bzImage-6.1.0-test" {
		t.Errorf("bzImage points to %q, %v", target, err)
	}
	for _, name := range []string{"bzImage-6.1.0-test.config", "bzImage-6.1.0-test.json"} {
		if _, err := os.Stat(filepath.Join(b.root, "data/images", name)); err != nil {
			t.Error(err)
		}
	}
	b.mustBuild(b.fromSource())
	if n := b.compiled(); n != 0 || !strings.Contains(b.err.String(), "kernel 6.1.0-test is up to date") {
		t.Errorf("an unchanged kernel was compiled %d times:\n%s", n, &b.err)
	}
	more := b.fromSource()
	more.With = []string{"more"}
	b.mustBuild(more)
	if n := b.compiled(); n != 1 {
		t.Errorf("a changed configuration was compiled %d times, want 1", n)
	}
	config, _ := os.ReadFile(filepath.Join(b.root, "data/images/bzImage-6.1.0-test+more.config"))
	if !strings.Contains(string(config), "CONFIG_MORE=y") {
		t.Errorf("the configuration placed is %q", config)
	}
	b.write(filepath.Join(b.src, "new.c"), "")
	b.mustBuild(more)
	if n := b.compiled(); n != 1 {
		t.Errorf("a changed source was compiled %d times, want 1", n)
	}
	for _, compiler := range compilers {
		b.shim(compiler, "#!/bin/sh\necho 'gcc 13.1'\necho more\n")
	}
	b.mustBuild(more)
	if n := b.compiled(); n != 1 {
		t.Errorf("a changed compiler compiled %d times, want 1", n)
	}
}

// A link to the source, as /usr/src/linux may be, is no source that never changes.
func TestBuildOfALink(t *testing.T) {
	b := newBench(t)
	link := filepath.Join(t.TempDir(), "linux")
	if err := os.Symlink(b.src, link); err != nil {
		t.Fatal(err)
	}
	b.mustBuild(source(link, ""))
	b.write(filepath.Join(b.src, "new.c"), "")
	b.mustBuild(source(link, ""))
	if n := b.compiled(); n != 2 {
		t.Errorf("a source that changed behind a link was compiled %d times, want 2", n)
	}
}

// The person's other work goes first, and what was compiled once is found again.
func TestBuildIsNiceAndCached(t *testing.T) {
	b := newBench(t)
	b.mustBuild(b.fromSource())
	if calls := b.calls(); !strings.Contains(calls, "bzImage: nice 19 ") || strings.Contains(calls, "ccache") {
		t.Errorf("make was called as:\n%s\nwant it at the lowest priority, and no ccache, which is not there", calls)
	}
	b.shim("ccache", "#!/bin/sh\n")
	more := b.fromSource()
	more.With = []string{"more"}
	b.mustBuild(more)
	if calls := b.calls(); !strings.Contains(calls, "CC=ccache ") {
		t.Errorf("make was called as:\n%s\nwant the compiler behind ccache", calls)
	}
	if calls := b.calls(); strings.Contains(calls, "NM=") {
		t.Errorf("make was called as:\n%s\nwant its own nm, since gcc's is not there", calls)
	}
	b.shim("gcc-nm", "#!/bin/sh\n")
	more.With = nil
	more.Anew = true
	b.mustBuild(more)
	if calls := b.calls(); !strings.Contains(calls, " NM=gcc-nm ") || strings.Contains(calls, "AR=") {
		t.Errorf("make was called as:\n%s\nwant gcc's nm, and its own ar", calls)
	}
}

func TestEnsureBuildsWhatFragmentsSay(t *testing.T) {
	b := newBench(t)
	b.mustBuild(b.fromSource())
	b.compiled()
	r, file, err := b.builder().Ensure(t.Context(), "x86_64")
	if err != nil || r.Release != "6.1.0-test" || file != filepath.Join(b.root, "data/images/bzImage-6.1.0-test") || b.compiled() != 0 {
		t.Errorf("Ensure = %+v, %s, %v", r, file, err)
	}
	if next, err := b.builder().Next("x86_64"); err != nil || next.Why != "" || next.Record.Release != "6.1.0-test" {
		t.Errorf("Next = %+v, %v, want the current one", next, err)
	}
	b.write(filepath.Join(b.root, "conf/kernel/base.config"), "CONFIG_A=y\nCONFIG_B=y\n")
	if next, err := b.builder().Next("x86_64"); err != nil || next.Why != "its configuration has changed" {
		t.Errorf("Next = %+v, %v", next, err)
	}
	if _, _, err := b.builder().Ensure(t.Context(), "x86_64"); err != nil || b.compiled() != 1 {
		t.Errorf("after a change of the fragments Ensure did not compile: %v", err)
	}
}

// Kernels of two architectures, and of two choices of fragments, do not take each
// other's place.
func TestKernelsSideBySide(t *testing.T) {
	b := newBench(t)
	for _, program := range []string{"aarch64-linux-gnu-gcc", "aarch64-linux-gnu-ld"} {
		b.shim(program, "#!/bin/sh\n")
	}
	plain, more := b.fromSource(), b.fromSource()
	more.With = []string{"more"}
	b.mustBuild(plain)
	arm := b.fromSource()
	arm.Arch = "arm64"
	if _, err := b.builder().Build(t.Context(), arm); err != nil {
		t.Fatal(err)
	}
	b.mustBuild(more)
	b.mustBuild(plain)
	b.calls()
	for arch, want := range map[string]string{"x86_64": "bzImage", "arm64": "Image"} {
		r, file, err := b.builder().Ensure(t.Context(), arch)
		if err != nil || r.Arch != arch || file != filepath.Join(b.root, "data/images", want+"-6.1.0-test") {
			t.Errorf("Ensure for %s = %+v, %s, %v", arch, r, file, err)
		}
		if target, err := os.Readlink(filepath.Join(b.root, "data/images", want)); err != nil || target != want+"-6.1.0-test" {
			t.Errorf("%s points to %q, %v", want, target, err)
		}
	}
	b.mustBuild(more)
	if calls := b.calls(); calls != "" {
		t.Errorf("kernels that are there were made again:\n%s", calls)
	}
	if next, err := b.builder().Next("riscv64"); err == nil || !strings.Contains(err.Error(), "architecture riscv64") {
		t.Errorf("Next for riscv64 = %+v, %v", next, err)
	}
}

// A build that a changed fragment brings about takes the source that kernel.conf
// names by then, and says so.
func TestNextNamesAnotherVersion(t *testing.T) {
	b := newBench(t)
	file, sum := b.pack()
	conf := filepath.Join(b.root, "conf/kernel/kernel.conf")
	pin := "\nfragments = base\ntarball = file://" + file + "\nsha256 = " + sum + "\n"
	b.write(conf, "version = 6.1"+pin)
	b.mustBuild(kernel.Options{})
	b.write(conf, "version = 6.2"+pin)
	if next, err := b.builder().Next("x86_64"); err != nil || next.Why != "" {
		t.Errorf("Next = %+v, %v, want the current one", next, err)
	}
	b.write(filepath.Join(b.root, "conf/kernel/base.config"), "CONFIG_A=y\nCONFIG_B=y\n")
	if next, err := b.builder().Next("x86_64"); err != nil || next.Why != "its configuration has changed, and kernel.conf names 6.2 instead of 6.1" {
		t.Errorf("Next = %+v, %v", next, err)
	}
}

// A build that ends between placing the kernel and its record is done again, of
// the source that was asked for.
func TestNextAfterAnInterruptedPlacing(t *testing.T) {
	b := newBench(t)
	b.mustBuild(b.fromSource())
	b.write(filepath.Join(b.root, "data/images/bzImage-6.1.0-test"), "another")
	b.calls()
	if next, err := b.builder().Next("x86_64"); err != nil || next.Why != "putting it in place was broken off" {
		t.Errorf("Next = %+v, %v", next, err)
	}
	r, _, err := b.builder().Ensure(t.Context(), "x86_64")
	if err != nil || r.Asked != b.src || b.compiled() != 1 {
		t.Errorf("Ensure = %+v, %v, want it built again of %s", r, err, b.src)
	}
}

// Whoever called sudo goes on without it: what a build leaves behind is theirs,
// when it fails too.
func TestBuildLeavesNothingOfRoots(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	b := newBench(t)
	owner := layout.Owner{UID: 4711, GID: 4711}
	build := func(q kernel.Request) {
		builder := b.builder()
		builder.Paths.Owner = owner
		if _, err := builder.Build(t.Context(), kernel.Options{Request: q, Arch: "x86_64"}); err == nil {
			t.Fatal("Build succeeded")
		}
	}
	b.write(filepath.Join(b.src, "act"), "mkdir -p $obj/a $CCACHE_DIR/b\ntouch $obj/a/x.o $CCACHE_DIR/b/y\nexit 2\n")
	build(b.fromSource().Request)
	b.write(filepath.Join(b.root, "conf/kernel/base.config"), "CONFIG_A=y\nCONFIG_LOST=y\n")
	build(b.fromSource().Request)
	url, _ := b.repository()
	build(kernel.Request{Source: url, Tag: "v6.1"})
	files := 0
	err := filepath.WalkDir(filepath.Join(b.root, "data"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != owner.UID {
			t.Errorf("%s belongs to user %d", path, st.Uid)
		}
		files++
		return err
	})
	if err != nil || files < 20 {
		t.Errorf("there are %d files, %v", files, err)
	}
}

func TestBuildFaults(t *testing.T) {
	t.Run("no Makefile", func(t *testing.T) {
		b := newBench(t)
		os.Remove(filepath.Join(b.src, "Makefile"))
		b.wantError(b.fromSource(), "is no kernel source: it has no Makefile")
	})
	t.Run("no such source", func(t *testing.T) {
		b := newBench(t)
		b.wantError(kernel.Options{Request: kernel.Request{Source: "/nonesuch"}}, "/nonesuch", "--source takes")
	})
	t.Run("built in place", func(t *testing.T) {
		b := newBench(t)
		b.write(filepath.Join(b.src, ".config"), "")
		b.wantError(b.fromSource(), "was built in place", "mrproper")
	})
	t.Run("no compiler", func(t *testing.T) {
		b := newBench(t)
		for _, program := range append(compilers, "bison", "flex", "lz4") {
			os.Remove(filepath.Join(b.bin, program))
		}
		b.wantError(b.fromSource(), "cannot be built without ", "gcc, bison, flex, lz4: ", "./dist-conf.sh --with-kernel-build")
	})
	t.Run("full disk", func(t *testing.T) {
		b := newBench(t)
		b.write(filepath.Join(b.src, "act"), "echo 'cc1: fatal: error writing to x.s: No space left on device' >&2\necho 'make: *** [x] Error 1' >&2\nexit 2\n")
		b.wantError(b.fromSource(), "compile", "No space left on device", "the disk is full")
	})
	t.Run("compiler's error", func(t *testing.T) {
		b := newBench(t)
		b.write(filepath.Join(b.src, "act"), "echo 'x.c:1:2: error: no good' >&2\necho 'make: *** [x] Error 1' >&2\nexit 2\n")
		b.wantError(b.fromSource(), "make: exit status 2: x.c:1:2: error: no good", "kernel-build.log")
	})
	t.Run("program that no one looked for", func(t *testing.T) {
		b := newBench(t)
		b.write(filepath.Join(b.src, "act"), "echo '/bin/sh: 1: lzop: not found' >&2\necho 'make[2]: *** [vmlinux.bin.lzo] Error 127' >&2\nexit 2\n")
		b.wantError(b.fromSource(), "lzop: not found")
	})
	t.Run("dropped symbol", func(t *testing.T) {
		b := newBench(t)
		b.write(filepath.Join(b.root, "conf/kernel/base.config"), "CONFIG_A=y\nCONFIG_LOST=y\n")
		b.wantError(b.fromSource(), "base.config:2: CONFIG_LOST=y is asked for")
	})
	t.Run("other architecture", func(t *testing.T) {
		b := newBench(t)
		_, err := b.builder().Build(t.Context(), kernel.Options{Arch: "mips"})
		if err == nil || !strings.Contains(err.Error(), "architecture mips") {
			t.Errorf("Build = %v", err)
		}
	})
}

// goOn compiles one.o, unless it is there, and then two.o.
const goOn = "test -e $obj/one.o || echo '  CC      one.o' >>$calls; touch $obj/one.o\necho '  CC      two.o' >>$calls; touch $obj/two.o\n"

func TestBuildInterruptedGoesOn(t *testing.T) {
	b := newBench(t)
	// What compiling means stands outside of the tree, which is to stay the same.
	act := filepath.Join(t.TempDir(), "act")
	b.write(filepath.Join(b.src, "act"), "calls=$src/../calls\n. "+act+"\n")
	b.write(act, "touch $obj/one.o\nsleep 60\n")
	one := filepath.Join(b.root, "data/build/kernel/obj/*/one.o")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for {
			if found, _ := filepath.Glob(one); len(found) > 0 {
				cancel()
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	if _, err := b.build(ctx, b.fromSource()); !errors.Is(err, context.Canceled) {
		t.Fatalf("an interrupted Build = %v, want context.Canceled", err)
	}
	if _, err := os.Lstat(filepath.Join(b.root, "data/images/bzImage")); err == nil {
		t.Error("an interrupted build left a kernel")
	}
	if found, _ := filepath.Glob(one); len(found) != 1 {
		t.Error("what was compiled before the interruption is gone")
	}
	b.calls()
	b.write(act, goOn)
	r := b.mustBuild(b.fromSource())
	if calls := b.calls(); r.Objects != 2 || strings.Contains(calls, "one.o") || !strings.Contains(calls, "two.o") {
		t.Errorf("the second call made %d objects, and did:\n%s\nwant it to go on behind one.o", r.Objects, calls)
	}
}
