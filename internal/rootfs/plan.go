package rootfs

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/proc"
	"meros/internal/store"
)

// Stage is one step from nothing to a target's tree.
type Stage struct {
	Name  string        // for people; the same for all distributions
	Step  string        // the step's name, in Steps
	Key   store.Key     // of all that it reads, the stages before it included
	Reads []store.Piece // what the key is made of
	Say   string        // what it does, for people
	Base  bool          // it makes the tree itself, not a layer over one
	Stamp Stamp         // of a Base: when it was made from the mirror

	// Reread makes Key again of what the recipe's files are now; nil where it reads none.
	Reread func() (*store.KeyBuilder, error)

	Fetches bool // it takes packages from a mirror
	secure  bool // by https
	// Args are the step's arguments. out is the folder for what the stage makes
	// beside the tree.
	Args func(out string) any
}

// Kernel files that the stage "packages" puts into its out folder. There is no
// initrd where the kernel needs none.
const (
	KernelFile  = "vmlinuz"
	InitrdFile  = "initrd"
	VersionFile = "version"
)

// Options of a Plan that come from the call, not from the recipe.
type Options struct {
	Mirrors string // file that remembers the mirrors of the host's apt; "": none
	Looks   bool   // write nothing, not even that file
	// KernelDeb and KernelInitrd are where on this host is, by the time of the build,
	// what the recipe names of a .deb and its initrd; "" where it names none.
	KernelDeb, KernelInitrd string
	// HookEnv is NAME=VALUE that hooks see beside what they always do.
	HookEnv []string
	// Stamps are the times at which bases were last refreshed, and Fresh the one to
	// take instead: a new stamp makes the base, and all that stands on it, new.
	Stamps map[store.Key]string
	Fresh  string
}

// Stamp tells one making of a base from the next, with newer packages.
type Stamp struct {
	Base store.Key // of what the base is made of
	Time string    // "": the first
}

// Plan returns the stages of a target in order. It reads the recipe and asks
// the host for its tools and mirrors, and writes nothing but Options.Mirrors.
func Plan(ctx context.Context, r proc.Runner, t *family.Target, o Options) ([]Stage, error) {
	base, install, err := planBase(ctx, r, t, o)
	if err != nil {
		return nil, err
	}
	base.Fetches, install.Fetches = true, true
	stages := []Stage{base, install}
	files, err := planPopulate(t, stages[1].Key)
	if err != nil {
		return nil, err
	}
	stages = append(stages, files)
	if len(t.ChrootHooks) == 0 {
		return stages, nil
	}
	hooks, err := planHooks(t, files.Key, o)
	return append(stages, hooks), err
}

// planBase plans the stages that depend on the distribution.
func planBase(ctx context.Context, r proc.Runner, t *family.Target, o Options) (base, install Stage, err error) {
	if t.Distro == "alpine" {
		return planAlpine(t, o)
	}
	d, known := distros[t.Distro]
	if !known {
		return base, install, fmt.Errorf("distro %q cannot be built", t.Distro)
	}
	base, err = d.planBootstrap(ctx, r, t, o)
	if err != nil {
		return base, install, err
	}
	return base, d.planInstall(t, base, o), nil
}

func (d distro) planBootstrap(ctx context.Context, r proc.Runner, t *family.Target, o Options) (Stage, error) {
	sources, lack, err := d.sourcesOf(ctx, r, t, o)
	if err != nil {
		return Stage{}, err
	}
	tool, err := bootstrapTool(t, len(sources) > 0)
	if err != nil {
		return Stage{}, err
	}
	suite, err := d.suite(t)
	if err != nil {
		return Stage{}, err
	}
	b := Bootstrap{Tool: tool, Distro: t.Distro, Suite: suite, Arch: debianArch(t), Sources: sources}
	if len(sources) == 0 && tool == "debootstrap" {
		b.Security = t.Security
		_, lack = d.lines(mirrors{Security: t.Security}, suite)
	}
	key := stageKey(stepBootstrap).Add("command", b.argv("/")...).Add("sources", sources...).Add("security", b.Security)
	if err := b.addTool(key); err != nil {
		return Stage{}, err
	}
	say := fmt.Sprintf("bootstrapping %s %s with %s", t.Distro, b.Suite, tool)
	if lack != "" {
		say += ", " + lack
	}
	base := newBase(key, say, b, o)
	base.secure = strings.Contains(strings.Join(sources, " "), " https://")
	return base, nil
}

// newBase is the stage that makes the bare tree.
func newBase(key *store.KeyBuilder, say string, args any, o Options) Stage {
	stamp := Stamp{Base: key.Sum()}
	if stamp.Time = o.Stamps[stamp.Base]; o.Fresh != "" {
		stamp.Time = o.Fresh
	}
	s := newStage(stepBootstrap, key.Add("refreshed", stamp.Time), say, args)
	s.Base, s.Stamp = true, stamp
	return s
}

// bootstrapTool is the recipe's choice, else mmdebstrap, else debootstrap, whose
// scripts alone know the mirrors of Debian's derivatives.
func bootstrapTool(t *family.Target, mirrorKnown bool) (string, error) {
	wanted := []string{"mmdebstrap", "debootstrap"}
	if t.Distro != "debian" && !mirrorKnown {
		wanted = []string{"debootstrap"}
	}
	if t.Bootstrap != "" {
		wanted = []string{t.Bootstrap}
	}
	var err error
	for _, tool := range wanted {
		if _, err = proc.Find(tool); err == nil {
			return tool, nil
		}
	}
	return "", hint.Add(err, "install %s, or run ./dist-conf.sh", wanted[0])
}

// debianArch is the recipe's architecture, else the host's in Debian's words.
func debianArch(t *family.Target) string {
	if t.Arch != "" {
		return t.Arch
	}
	if runtime.GOARCH == "386" {
		return "i386"
	}
	return runtime.GOARCH
}

func (d distro) planInstall(t *family.Target, base Stage, o Options) Stage {
	packages := slices.Clone(d.base)
	if base.secure {
		packages = append(packages, "ca-certificates") // for the guest's own apt
	}
	if t.HasSession() {
		packages = append(packages, "openssh-server")
	}
	packages = append(packages, t.Packages...)
	a := Install{Packages: packages}
	if t.Kernel == family.KernelDistro {
		a.Kernel = d.kernel(debianArch(t))
	}
	say := fmt.Sprintf("installing %d packages", len(packages))
	if a.Kernel != "" {
		say += " and the kernel " + a.Kernel
	}
	key := stageKey(stepInstall).Add(Below, string(base.Key)).Add("packages", packages...).
		Add("kernel", a.Kernel).Add("initrd", initrdModules...)
	if p := t.Prebuilt; t.Kernel == family.KernelPrebuilt && t.PackagedKernel() {
		a.Unpack = Unpack{Package: p.Package, SHA256: p.SHA256, File: o.KernelDeb, Initrd: o.KernelInitrd}
		say += " and unpacking the " + a.Unpack.String()
		key.Add("unpacked kernel and its modules", p.Package, p.SHA256, p.InitrdSHA256)
	}
	s := newStage(stepInstall, key, say, nil)
	s.Args = func(out string) any { a.Out = out; return a }
	return s
}

// Below labels the key of the stage before, among what a stage reads.
const Below = "the stage before"

// stageFormat changes when meros itself does a stage differently, so that
// results of older versions are not taken for its own.
const stageFormat = "5"

func stageKey(name string) *store.KeyBuilder {
	return store.NewKey(name).Add("version of meros's stages", stageFormat)
}

// newStage is a stage whose step needs nothing but args.
func newStage(name string, key *store.KeyBuilder, say string, args any) Stage {
	return Stage{Name: name, Step: name, Key: key.Sum(), Reads: key.Pieces(), Say: say, Args: func(string) any { return args }}
}

// newRecipeStage is a stage that reads files of the recipe: once for its key, and
// again when it is done, which may be minutes later.
func newRecipeStage(name, say string, args any, read func() (*store.KeyBuilder, error)) (Stage, error) {
	key, err := read()
	if err != nil {
		return Stage{}, err
	}
	s := newStage(name, key, say, args)
	s.Reread = read
	return s, nil
}

func planPopulate(t *family.Target, below store.Key) (Stage, error) {
	a := Populate{User: t.User, Includes: t.Includes, Pkg: t.Pkg}
	return newRecipeStage(stepPopulate, "laying the recipe's files over it", a, func() (*store.KeyBuilder, error) {
		key := stageKey(stepPopulate).Add(Below, string(below)).Add("user", t.User)
		for _, dir := range t.Includes {
			if err := key.AddTree("includes", dir); err != nil {
				return nil, err
			}
		}
		if t.Pkg == "" {
			return key, nil
		}
		return key, key.AddTree("pkg", t.Pkg)
	})
}

func planHooks(t *family.Target, below store.Key, o Options) (Stage, error) {
	env := []string{
		"MEROS_FAMILY=" + t.Family, "MEROS_TARGET=" + t.Name, "TARGET_FULL_ID=" + t.FullID(),
		"MEROS_USER=" + t.User, "MEROS_HOSTNAME=" + t.Hostname,
	}
	env = append(env, o.HookEnv...)
	a := Hooks{Files: t.ChrootHooks, Env: env}
	say := fmt.Sprintf("running %d hooks", len(t.ChrootHooks))
	if len(t.ChrootHooks) == 1 {
		say = strings.TrimSuffix(say, "s")
	}
	return newRecipeStage(stepHooks, say, a, func() (*store.KeyBuilder, error) {
		key := stageKey(stepHooks).Add(Below, string(below)).Add("env", env...)
		for _, file := range t.ChrootHooks {
			if err := key.AddFile("hook", file); err != nil {
				return nil, err
			}
		}
		return key, nil
	})
}
