package family

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"meros/internal/layout"
)

// common is the folder of what all targets share.
const common = "common"

// The folders that a recipe, and a part of its rootfs/, may have.
var (
	recipeFolders = []string{"build", "rootfs", "pkg", "libvirt", "hooks", "netfilter", "package-lists", "docs"}
	rootfsFolders = []string{"includes.chroot", "hooks", "package-lists"}
)

// Load reads the recipe of a family. The error wraps ErrBadName when no family
// can have that name, ErrNotFound when there is none, and is else Faults, all of
// them.
func Load(paths layout.Paths, name string) (*Family, error) {
	if err := layout.CheckFamily(name); err != nil {
		return nil, badName(err)
	}
	l, err := open(paths, name)
	if err != nil {
		return nil, err
	}
	defer l.root.Close()
	l.recipe()
	if err := l.report.err(); err != nil {
		return nil, err
	}
	return l.family, nil
}

// List returns the names of all families, sorted. A folder whose name no family
// can have is none.
func List(paths layout.Paths) ([]string, error) {
	entries, err := os.ReadDir(paths.Families())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		info, err := os.Stat(paths.Family(e.Name())) // a family may be a link
		if err == nil && info.IsDir() && layout.CheckFamily(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// LoadTarget reads the recipe that a full id such as mos_sec-guest is of, and
// returns the target too. It fails as Load does.
func LoadTarget(paths layout.Paths, fullID string) (*Family, *Target, error) {
	name, target, err := layout.SplitFullID(fullID)
	if err != nil {
		return nil, nil, badName(err)
	}
	f, err := Load(paths, name)
	if err != nil {
		return nil, nil, err
	}
	if t := f.Target(target); t != nil {
		return f, t, nil
	}
	var there []string
	for _, t := range f.Targets {
		there = append(there, t.FullID())
	}
	return nil, nil, notFound("target", fullID, there)
}

func open(paths layout.Paths, name string) (*loader, error) {
	dir := paths.Family(name)
	rel, err := filepath.Rel(paths.Root, dir)
	if err != nil {
		return nil, err
	}
	l := &loader{dir: dir, rel: filepath.ToSlash(rel), report: &report{}, family: &Family{Name: name, Dir: dir}}
	l.root, err = os.OpenRoot(dir)
	if err == nil {
		return l, nil
	}
	f := l.report.file(l.rel)
	switch _, statErr := os.Lstat(dir); {
	case errors.Is(statErr, fs.ErrNotExist):
		there, _ := List(paths) // only to be named; that there is none such is known
		return nil, notFound("family", name, there)
	case errors.Is(err, fs.ErrNotExist):
		f.fault(0, "", "a link to nothing")
	case errors.Is(err, fs.ErrPermission):
		f.advise("let your user read "+l.rel, "cannot be read: permission denied")
	default:
		f.fault(0, "", "cannot be read: %s", reason(err))
	}
	return nil, l.report.err()
}

// recipe reads all there is, in an order in which targets are known before what
// names them.
func (l *loader) recipe() {
	l.topLevel()
	files := l.buildFiles()
	sameAddress(files)
	l.libvirt()
	l.order(files)
	slices.SortFunc(l.family.Targets, func(a, b *Target) int { return strings.Compare(a.Name, b.Name) })
	if len(l.family.Targets) == 0 && len(l.report.faults) == 0 {
		l.file("").advise("a recipe has at least build/TARGET.xml or libvirt/TARGET.xml; an empty folder may be a git submodule not fetched",
			"there is no target in it")
	}
	l.rootfs()
	l.hostHooks()
	l.netfilter()
	l.policy()
}

// topLevel finds folders that would be passed over for a slip of the pen.
func (l *loader) topLevel() {
	entries, _ := l.entries(".")
	for _, e := range entries {
		l.spelling(e.Name(), e, recipeFolders)
	}
}

// spelling faults a folder that is nearly one of those known.
func (l *loader) spelling(name string, e fs.DirEntry, known []string) {
	if !e.IsDir() {
		return
	}
	if near, ok := misspelt(e.Name(), known); ok {
		l.file(name).fault(0, "", "is no folder of a recipe: was %s meant?", near)
	}
}

// buildFiles reads build/*.xml. A file with faults still makes a target, so that
// what belongs to it is not faulted as well.
func (l *loader) buildFiles() []*buildFile {
	var files []*buildFile
	for _, name := range l.named("build", ".xml") {
		f := l.file(name)
		id := strings.TrimSuffix(path.Base(name), ".xml")
		if err := layout.CheckTarget(id); err != nil {
			f.fault(0, "", "%v", err)
			continue
		}
		if id == common {
			f.fault(0, "", "no target may be called common: rootfs/common belongs to all of them")
			continue
		}
		t := newTarget(l.family.Name, id)
		t.BuildFile = l.abs(name)
		l.family.Targets = append(l.family.Targets, t)
		if data, ok := l.readDocument(f, name); ok {
			files = append(files, readBuild(data, f, t))
		}
	}
	return files
}

// rootfs finds what is laid over and run in each target that is built.
func (l *loader) rootfs() {
	pkg := ""
	if l.isDir("pkg") {
		pkg = l.abs("pkg")
	}
	entries, ok := l.entries("rootfs")
	if !ok {
		return
	}
	for _, e := range entries {
		l.part(e)
	}
	all := l.layer(common)
	lists := append(l.packageLists("package-lists"), all.lists...)
	for _, t := range l.family.Targets {
		own := l.layer(t.Name)
		if t.Imported {
			continue
		}
		t.Includes = slices.Concat(all.includes, own.includes)
		t.ChrootHooks = slices.Concat(all.hooks, own.hooks)
		for _, list := range slices.Concat(lists, own.lists) {
			list.addTo(t)
		}
		t.Pkg = pkg
	}
}

// layer is one part of rootfs/.
type layer struct {
	includes []string // the includes.chroot folder, if any
	hooks    []string
	lists    []packageList
}

func (l *loader) layer(name string) (found layer) {
	in := path.Join("rootfs", name)
	if !l.isDir(in) {
		return found
	}
	entries, ok := l.entries(in)
	if !ok {
		return found
	}
	for _, e := range entries {
		l.spelling(path.Join(in, e.Name()), e, rootfsFolders)
	}
	if dir := path.Join(in, "includes.chroot"); l.isDir(dir) {
		found.includes = []string{l.abs(dir)}
	}
	found.hooks, found.lists = l.hooks(path.Join(in, "hooks")), l.packageLists(path.Join(in, "package-lists"))
	return found
}

// part faults a folder of rootfs/ that is of no target. One that holds nothing
// meros would use is left alone: older families have such.
func (l *loader) part(e fs.DirEntry) {
	name := path.Join("rootfs", e.Name())
	if e.Name() == common || l.family.Target(e.Name()) != nil || !e.IsDir() {
		return
	}
	known := []string{common}
	for _, t := range l.family.Targets {
		known = append(known, t.Name)
	}
	_, near := misspelt(e.Name(), known)
	if near || l.there(path.Join(name, "includes.chroot")) || l.there(path.Join(name, "hooks")) || l.there(path.Join(name, "package-lists")) {
		l.file(name).fault(0, "", "there is no target %s: %s", show(e.Name()), suggestion(e.Name(), known))
	}
}

// netfilter lists the packet-filter rules. What they say is nft's to judge.
func (l *loader) netfilter() {
	for _, name := range l.named("netfilter", ".nft") {
		if _, _, ok := l.read(l.file(name), name, 0); ok {
			l.family.Netfilter = append(l.family.Netfilter, l.abs(name))
		}
	}
}
