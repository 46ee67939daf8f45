package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"meros/internal/hint"
	"meros/internal/layout"
	"meros/internal/proc"
	"meros/internal/ui"
)

// Builder builds kernels.
type Builder struct {
	*ui.Streams
	Runner proc.Runner
	Paths  layout.Paths

	Offline bool          // take nothing from the network
	Stall   time.Duration // how long a server may send nothing; 0: stall.Time
}

// Options come from the call.
type Options struct {
	Request
	With   []string // fragments beside those of kernel.conf
	Arch   string   // in the kernel's words; "": the host's
	Jobs   int      // files compiled at a time; 0: one for each processor
	NoWait bool     // fail at once if another meros builds a kernel
	Anew   bool     // forget what was compiled before
}

// Check finds words of a call that have not their form.
func (o Options) Check() error {
	if err := o.Request.Check(); err != nil {
		return err
	}
	for _, name := range o.With {
		if !fragmentName.MatchString(name) {
			return fmt.Errorf("--with: %w", noName(name))
		}
	}
	if o.Arch == "" {
		return nil
	}
	_, err := findArch(o.Arch)
	return err
}

// LogName is the log of the last build.
const LogName = "kernel-build"

// lockName cannot be a family's: those have no dash.
const lockName = "kernel-build"

// Build makes the kernel the current one of its architecture, and compiles it
// unless one of the same source and configuration is there.
func (b Builder) Build(ctx context.Context, o Options) (Record, error) {
	unlock, err := b.lock(ctx, o.NoWait)
	if err != nil {
		return Record{}, err
	}
	defer unlock()
	r, err := b.build(ctx, o)
	if err != nil {
		return r, fmt.Errorf("build the kernel: %w", err)
	}
	return r, nil
}

func (b Builder) lock(ctx context.Context, noWait bool) (func(), error) {
	waiting := b.waiting
	if noWait {
		waiting = nil
	}
	return b.Paths.Lock(ctx, lockName, "kernel-build", waiting)
}

func (b Builder) waiting(holder string) { b.Step("waiting for: %s", holder) }

// Ensure returns the current kernel of an architecture and its file. One whose
// configuration is not what the fragments say, or none, is built first: from the
// source that was asked for when the last one was, which may have become a newer
// one; else from kernel.conf's.
func (b Builder) Ensure(ctx context.Context, arch string) (Record, string, error) {
	unlock, err := b.lock(ctx, false)
	if err != nil {
		return Record{}, "", err
	}
	defer unlock()
	next, err := b.Next(arch)
	if err != nil {
		return next.Record, "", err
	}
	if next.Why == "" {
		return next.Record, next.file, nil
	}
	if next.file != "" {
		b.Step("the kernel %s is built again: %s", next.Record.Release, next.Why)
	}
	r, err := b.build(ctx, next.options)
	if err != nil {
		return r, "", hint.Add(fmt.Errorf("build the kernel: %w", err), "meros kernel-build builds it alone, from the source that --source names; or set kernel=\"distro\" in the build XML")
	}
	_, file, err := current(b.Paths, arches[next.options.Arch])
	return r, file, err
}

// Next is what Ensure would do.
type Next struct {
	Record Record // of the current kernel; zero if there is none
	Why    string // the kernel is built; "": it is not, the current one is taken

	file    string
	options Options
}

// Next looks at the current kernel of an architecture and the fragments, and
// changes nothing.
func (b Builder) Next(arch string) (Next, error) {
	a, err := findArch(arch)
	if err != nil {
		return Next{}, err
	}
	old, file, err := current(b.Paths, a)
	if errors.Is(err, fs.ErrNotExist) {
		return Next{Why: "none is built yet", options: Options{Arch: a.name}}, nil
	}
	next := Next{Record: old, file: file, options: Options{Request: old.request(), With: old.With, Arch: a.name}}
	torn := errors.Is(err, errOtherFile)
	if err != nil && !torn {
		return next, err
	}
	p, err := b.plan(next.options)
	switch {
	case err != nil:
		return next, err
	case torn:
		next.Why = "putting it in place was broken off"
	case p.config != old.Config:
		next.Why = "its configuration has changed"
	}
	if next.Why != "" && old.Pinned != "" && old.Pinned != p.conf.Version {
		next.Why += fmt.Sprintf(", and kernel.conf names %s instead of %s", p.conf.Version, old.Pinned)
	}
	return next, nil
}

// plan is what a build will be, as far as it is known without the source.
type plan struct {
	Options
	conf   Conf
	arch   arch
	asks   []Ask
	config string // hash of what the fragments ask for
}

func (b Builder) plan(o Options) (plan, error) {
	p := plan{Options: o}
	var err error
	if p.arch, err = findArch(o.Arch); err != nil {
		return p, err
	}
	if p.conf, err = ReadConf(filepath.Join(b.Paths.KernelConf(), "kernel.conf")); err != nil {
		return p, err
	}
	names := slices.Concat(p.conf.Fragments, o.With)
	if p.asks, err = Asks(b.Paths.KernelConf(), p.arch.name, names); err != nil {
		return p, err
	}
	p.config = hashOf(p.arch.name, Seed(p.asks))
	return p, nil
}

func hashOf(words ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return hex.EncodeToString(sum[:16])
}

func (b Builder) build(ctx context.Context, o Options) (Record, error) {
	p, err := b.plan(o)
	if err != nil {
		return Record{}, err
	}
	if err := b.checkTools(ctx, p.arch); err != nil {
		return Record{}, err
	}
	t, err := b.tree(ctx, p.conf, o.Request)
	if err != nil {
		return Record{}, err
	}
	key := hashOf(p.config, t.ID, b.compiler(ctx, p.arch))
	if r, file := withKey(b.Paths, p.arch, key); file != "" && !o.Anew {
		b.Step("kernel %s is up to date", r.Release)
		return r, point(b.Paths, p.arch, file)
	}
	log, err := b.Paths.OpenLog(LogName)
	if err != nil {
		return Record{}, err
	}
	defer log.Close()
	m := &making{Builder: b, plan: p, tree: t, log: log, obj: b.dir("obj", p.arch.name+"-"+hashOf(t.ID))}
	r, err := m.run(ctx)
	r.Key = key
	if err == nil {
		err = m.place(r)
	}
	return r, err
}

// making is one kernel on its way.
type making struct {
	Builder
	plan
	tree Tree
	obj  string // folder of the objects
	log  *os.File
}

func (m *making) run(ctx context.Context) (r Record, err error) {
	if err := m.room(objectBytes, "compile a kernel"); err != nil {
		return Record{}, err
	}
	if m.Anew {
		if err := os.RemoveAll(m.obj); err != nil {
			return Record{}, err
		}
	}
	for _, dir := range []string{m.obj, m.Paths.CompilerCache()} {
		if err := m.Paths.MkdirAll(dir, 0o755); err != nil {
			return Record{}, err
		}
		// Whoever called sudo goes on with it without, after a failure too.
		defer func() { err = errors.Join(err, m.giveTree(dir)) }()
	}
	if err := m.configure(ctx); err != nil {
		return Record{}, err
	}
	release, err := m.release(ctx)
	if err != nil {
		return Record{}, err
	}
	r = Record{
		Config: m.config, Release: release, Arch: m.arch.name, With: m.With,
		Source: m.tree.Origin, Asked: m.lasting(), Tag: m.Tag, Commit: m.Commit, Sum: m.SHA256,
		Built: time.Now().UTC().Truncate(time.Second),
	}
	if m.Request == (Request{}) {
		r.Pinned = m.conf.Version
	}
	return r, m.compile(ctx, &r)
}

// lasting is the --source that a later build may use again. A path is made
// absolute: the next call may be made elsewhere.
func (m *making) lasting() string {
	if m.Source == "" || m.Source == Distro || urlForm.MatchString(m.Source) {
		return m.Source
	}
	path, err := filepath.Abs(m.Source)
	if err != nil {
		return ""
	}
	return path
}

// configure writes .config and checks it. One that is already so is left alone,
// so that make compiles nothing anew.
func (m *making) configure(ctx context.Context) error {
	m.Step("configuring for %s", m.arch.name)
	seed, final := filepath.Join(m.obj, "meros.config"), filepath.Join(m.obj, ".config")
	if err := os.WriteFile(seed, []byte(Seed(m.asks)), 0o644); err != nil {
		return err
	}
	before, _ := os.ReadFile(final)
	info, _ := os.Stat(final)
	if err := m.make(ctx, m.log, []string{"KCONFIG_ALLCONFIG=" + seed}, "allnoconfig"); err != nil {
		return fmt.Errorf("configure: %w", buildHint(firstFault(err), m.log.Name()))
	}
	config, err := os.ReadFile(final)
	if err != nil {
		return err
	}
	if info != nil && string(before) == string(config) {
		_ = os.Chtimes(final, info.ModTime(), info.ModTime())
	}
	return Unmet(m.asks, string(config))
}

// make runs make on the tree, with objects elsewhere, at the lowest priority.
func (m *making) make(ctx context.Context, out io.Writer, env []string, args ...string) error {
	argv := append([]string{"nice", "-n", "19", "make", "-C", m.tree.Dir, "O=" + m.obj, "ARCH=" + m.arch.name}, m.vars()...)
	return m.Runner.Run(ctx, proc.Cmd{Argv: append(argv, args...), Env: append(m.env(), env...), Stdout: out, Stderr: m.log})
}

// vars are make's variables: the compiler, and what would make two builds of the
// same source differ (Documentation/kbuild/reproducible-builds.rst).
func (m *making) vars() []string {
	cc := m.arch.cross + "gcc"
	if installed("ccache") {
		cc = "ccache " + cc
	}
	vars := []string{"CC=" + cc, "KBUILD_BUILD_USER=meros", "KBUILD_BUILD_HOST=meros", "KBUILD_BUILD_VERSION=1", "KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 2026"}
	if m.arch.cross != "" {
		vars = append(vars, "CROSS_COMPILE="+m.arch.cross)
	}
	// Plain nm and ar load every plugin of binutils each time, LLVM's 100 MB among
	// them where it is installed, for objects that need none: a quarter of the work
	// with a warm ccache. gcc's own name the one plugin to load (gcc-nm(1)).
	for _, tool := range []string{"nm", "ar"} {
		if program := m.arch.cross + "gcc-" + tool; installed(program) {
			vars = append(vars, strings.ToUpper(tool)+"="+program)
		}
	}
	return vars
}

// env is nothing of the caller's but what finds programs: a CFLAGS of theirs
// must not change the kernel.
func (m *making) env() []string {
	cache := m.Paths.CompilerCache()
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "LC_ALL=C", "TMPDIR=" + os.TempDir(),
		"CCACHE_DIR=" + cache, "CCACHE_BASEDIR=" + m.Paths.Root, "CCACHE_MAXSIZE=2G", "CCACHE_NOHASHDIR=1",
		// What a file includes is known from the list that the compiler writes for
		// make: without it ccache preprocesses each file twice more (ccache(1)).
		"CCACHE_DEPEND=1",
	}
}

func (m *making) release(ctx context.Context) (string, error) {
	var out strings.Builder
	if err := m.make(ctx, &out, nil, "-s", "--no-print-directory", "kernelrelease"); err != nil {
		return "", fmt.Errorf("ask for the version: %w", buildHint(firstFault(err), m.log.Name()))
	}
	release := strings.TrimSpace(out.String())
	if !releaseForm(release) {
		return "", fmt.Errorf("the kernel calls itself %q, which is no version", release)
	}
	return release, nil
}

// releaseForm holds for a version that can be part of a file's name.
func releaseForm(s string) bool { return tagForm.MatchString(s) && !strings.ContainsAny(s, "/") }

func (m *making) compile(ctx context.Context, r *Record) error {
	config, err := os.ReadFile(filepath.Join(m.obj, ".config"))
	if err != nil {
		return err
	}
	r.Symbols = builtIn(string(config))
	jobs := m.Jobs
	if jobs <= 0 {
		jobs = runtime.NumCPU() + 1 // one that waits for its files leaves no processor idle
	}
	m.Step("compiling %s with %d jobs, all it prints goes to %s", r.Release, jobs, m.log.Name())
	started := time.Now()
	current, older := objectsIn(m.obj)
	p := newProgress(m.Streams, current, m.expected(r.Symbols), older > 0)
	err = m.make(ctx, io.MultiWriter(m.log, m.Tool(), p), nil, fmt.Sprintf("-j%d", jobs), m.arch.target)
	p.end()
	current, older = objectsIn(m.obj)
	r.Objects, r.Seconds = current+older, time.Since(started).Round(time.Second).Seconds()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("compile: %w", buildHint(firstFault(err), m.log.Name()))
	}
	return err
}

// expected is how many files there are to compile: as many as the current kernel
// has for as many symbols.
func (m *making) expected(symbols int) int {
	if old, _, err := current(m.Paths, m.arch); err == nil && old.Objects > 0 && old.Symbols > 0 {
		return old.Objects * symbols / old.Symbols
	}
	return int(perSymbol * float64(symbols))
}

// place puts the result beside the images.
func (m *making) place(r Record) error {
	image, err := os.ReadFile(filepath.Join(m.obj, m.arch.image))
	if err != nil {
		return err
	}
	config, err := os.ReadFile(filepath.Join(m.obj, ".config"))
	if err != nil {
		return err
	}
	r.SHA256 = sumOfBytes(image)
	if err := place(m.Paths, m.arch, image, config, r); err != nil {
		return err
	}
	m.Step("built %s: %.1f MiB, %d files in %s", r.Release, float64(len(image))/(1<<20), r.Objects, time.Duration(r.Seconds*float64(time.Second)))
	return nil
}
