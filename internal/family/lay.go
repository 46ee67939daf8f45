package family

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"meros/internal/hint"
	"meros/internal/layout"
)

// ErrExists is wrapped by Lay's error when there is a family of that name.
var ErrExists = errors.New("there is a family of that name already")

// Taken is what the host's network has, and other families, in use.
type Taken struct {
	Bridges []string
	Subnets []netip.Prefix
}

// Lay puts a copy of a recipe in place as the family name: the family from, whose
// folder is dir of shipped. Name, bridges, subnets, MAC addresses and UUIDs of the copy are its own
// wherever another family of the root, or what is taken, has them. What is there
// is never overwritten: the error wraps ErrExists, or ErrBadName when no family
// can have that name.
func Lay(paths layout.Paths, shipped fs.FS, dir, from, name string, taken Taken) error {
	if err := layout.CheckFamily(name); err != nil {
		return badName(err)
	}
	if _, err := os.Lstat(paths.Family(name)); !errors.Is(err, fs.ErrNotExist) {
		return hint.Add(fmt.Errorf("%s: %w: %s", name, ErrExists, paths.Family(name)), "choose another name, or move the folder away")
	}
	source, err := readRecipe(shipped, dir)
	if err != nil {
		return err
	}
	others, err := readOthers(paths)
	if err != nil {
		return err
	}
	if err := newRewriter(source, others, from, name, taken).rewrite(source); err != nil {
		return err
	}
	return place(paths, name, source)
}

// recipeFiles are the files of a recipe, by path below its folder.
type recipeFiles map[string][]byte

func readRecipe(shipped fs.FS, dir string) (recipeFiles, error) {
	files := recipeFiles{}
	err := fs.WalkDir(shipped, dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(shipped, name)
		files[strings.TrimPrefix(name, dir+"/")] = content
		return err
	})
	return files, err
}

// readOthers returns the documents of all families of a root, as one recipe.
func readOthers(paths layout.Paths) (recipeFiles, error) {
	all := recipeFiles{}
	names, err := List(paths)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		for _, folder := range documents {
			found, err := filepath.Glob(filepath.Join(paths.Family(name), folder, "*.xml"))
			if err != nil {
				return nil, err
			}
			for _, file := range found {
				content, err := os.ReadFile(file)
				if err != nil {
					return nil, err
				}
				all[path.Join(folder, name+" "+filepath.Base(file))] = content
			}
		}
	}
	return all, nil
}

// documents are the folders whose files say what a family takes of the network.
var documents = []string{"build", "libvirt"}

// place puts a recipe in place as the family name, once it was found to be without fault.
func place(paths layout.Paths, name string, files recipeFiles) error {
	at := func(p layout.Paths) string { return p.Family(name) }
	return putFolder(paths, at, files, func(inside layout.Paths) error {
		if _, err := Load(inside, name); err != nil {
			return fmt.Errorf("the new family is faulty: %w", err)
		}
		return nil
	})
}

// LayKernel puts what the guests' own kernel is configured by in place, the files below
// dir of shipped, for families that have it compiled. What is there stays as it is.
func LayKernel(paths layout.Paths, shipped fs.FS, dir string) error {
	if _, err := os.Lstat(paths.KernelConf()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	files, err := readRecipe(shipped, dir)
	if err != nil {
		return err
	}
	return putFolder(paths, layout.Paths.KernelConf, files, func(layout.Paths) error { return nil })
}

// putFolder writes the files of one folder of a root, which at names, into a root beside
// it, checks them there, and renames the folder.
func putFolder(paths layout.Paths, at func(layout.Paths) string, files recipeFiles, check func(inside layout.Paths) error) (err error) {
	if err := paths.MkdirAll(paths.Families(), 0o755); err != nil {
		return err
	}
	staging, err := os.MkdirTemp(paths.Families(), ".new-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(staging)) }()
	inside := layout.Paths{Root: staging, Owner: paths.Owner}
	for file, content := range files {
		mode := fs.FileMode(0o644)
		if isProgram(content) {
			mode = 0o755
		}
		if err := inside.WriteFile(filepath.Join(at(inside), filepath.FromSlash(file)), content, mode); err != nil {
			return err
		}
	}
	if err := check(inside); err != nil {
		return err
	}
	return os.Rename(at(inside), at(paths))
}

// isProgram reports whether the kernel would run a file (execve(2)).
func isProgram(content []byte) bool {
	return bytes.HasPrefix(content, []byte("#!")) || bytes.HasPrefix(content, []byte("\x7fELF"))
}

func isText(content []byte) bool { return utf8.Valid(content) && !bytes.Contains(content, []byte{0}) }
