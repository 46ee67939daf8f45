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
	"regexp"
	"strings"

	"meros/internal/hint"
	"meros/internal/proc"
)

// Request is the source as the call names it.
type Request struct {
	Source string // "": kernel.conf's; Distro; the URL of a git repository or a tarball; a folder or tarball of this host
	SHA256 string // of a tarball
	Tag    string // of a git repository, which is kernel.conf's where Source is ""; "": kernel.conf's tag
	Commit string // what the tag must point to
}

// Check finds words that have not their form, and what a call says beside Source
// that Source has no use for.
func (q Request) Check() error {
	kind := q.kind()
	switch {
	case kind == aTarball && !urlForm.MatchString(q.Source) && remoteForm.MatchString(q.Source) && !exists(q.Source):
		return hint.Add(fmt.Errorf("--source: %q is no address that a kernel's source is taken from", q.Source),
			"https, http, git, ssh and file URLs are taken, such as ssh://git@example.org/linux.git; a file or folder of that name as ./NAME")
	case q.SHA256 != "" && kind != aTarball:
		return hint.Add(fmt.Errorf("--sha256 is the sum of a tarball, and the source is %s", kind),
			"add --source with the tarball's file or URL, or leave --sha256 away")
	case q.SHA256 != "" && !shaForm.MatchString(q.SHA256):
		return fmt.Errorf("--sha256: %w", noSum(q.SHA256))
	case (q.Tag != "" || q.Commit != "") && kind != ofConf && kind != aRepository:
		return hint.Add(fmt.Errorf("--tag and --commit are of a git repository, and the source is %s", kind),
			"give --source the repository's URL; without --source it is kernel.conf's")
	case q.Tag != "" && !tagForm.MatchString(q.Tag):
		return fmt.Errorf("--tag: %w", noTag(q.Tag))
	case q.Commit != "" && !commitForm.MatchString(q.Commit):
		return fmt.Errorf("--commit: %w", noCommit(q.Commit))
	}
	return nil
}

// remoteForm holds for what means another host: a URL of any scheme, and the form
// of scp (git-clone(1): no slash before the first colon).
var remoteForm = regexp.MustCompile(`://|^[^/]+:`)

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// What a Source may be, for people.
const (
	ofConf      = "what kernel.conf pins"
	ofDistro    = "a package of this host's distribution"
	aTarball    = "a tarball"
	aRepository = "a git repository"
	aFolder     = "a folder"
)

func (q Request) kind() string {
	isURL, packed := urlForm.MatchString(q.Source), tarballForm.MatchString(q.Source)
	switch {
	case q.Source == "":
		return ofConf
	case q.Source == Distro:
		return ofDistro
	case isURL && packed:
		return aTarball
	case isURL:
		return aRepository
	}
	if info, err := os.Stat(q.Source); err == nil && info.IsDir() {
		return aFolder
	}
	return aTarball
}

// Distro is the Request for the source that the host's distribution packages.
const Distro = "distro"

// Tree is a source tree that was verified.
type Tree struct {
	Dir    string
	ID     string // names its content: the same ID, the same files
	Origin string // where it came from and how that was verified, for people
}

var tarballForm = regexp.MustCompile(`\.(tar\.(xz|gz|bz2|zst)|tgz)$`)

// tree gets the source and verifies it.
func (b Builder) tree(ctx context.Context, c Conf, q Request) (Tree, error) {
	t, err := b.find(ctx, c, q)
	if err != nil {
		return t, err
	}
	return t, checkTree(t.Dir)
}

func (b Builder) find(ctx context.Context, c Conf, q Request) (Tree, error) {
	switch kind := q.kind(); {
	case kind == ofConf:
		return b.pinned(ctx, c, q)
	case kind == ofDistro:
		return b.distro(ctx)
	case kind == aRepository:
		return b.git(ctx, c.repo(q.Source, q))
	case urlForm.MatchString(q.Source):
		return b.remoteTarball(ctx, q.Source, firstOf(q.SHA256, pinOf(c, q.Source)))
	}
	path, err := filepath.Abs(q.Source)
	if err != nil {
		return Tree{}, err
	}
	if _, err := os.Stat(path); err != nil {
		return Tree{}, hint.Add(fmt.Errorf("the kernel's source: %w", err), "--source takes %q, a folder, a tarball, or the URL of a tarball or a git repository", Distro)
	}
	if q.kind() == aFolder {
		return folder(path)
	}
	return b.tarball(ctx, path, q.SHA256, path)
}

func firstOf(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}

func pinOf(c Conf, url string) string {
	if url == c.Tarball {
		return c.SHA256
	}
	return ""
}

// checkTree reports what makes a folder no kernel source.
func checkTree(dir string) error {
	for _, name := range []string{"Makefile", "Kconfig", "scripts/kconfig"} {
		if _, err := os.Stat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			return hint.Add(fmt.Errorf("%s is no kernel source: it has no %s", dir, name), "name the folder that holds the kernel's own Makefile, or the tarball")
		} else if err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(dir, ".config")); err == nil {
		return hint.Add(fmt.Errorf("%s was built in place, which a build elsewhere stumbles over", dir), "clean it: make -C %s mrproper", dir)
	}
	return nil
}

// folder is a tree of the person's own. Its ID is made of names, sizes and times.
// A link to it is followed: of itself it never changes.
func folder(dir string) (Tree, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return Tree{}, err
	}
	h := sha256.New()
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if err == nil && d.Name() == ".git" {
				return fs.SkipDir
			}
			return err
		}
		info, err := d.Info()
		if err == nil {
			fmt.Fprintf(h, "%q %d %d\n", path, info.Size(), info.ModTime().UnixNano())
		}
		return err
	})
	return Tree{Dir: dir, ID: "files-" + hex.EncodeToString(h.Sum(nil)[:16]), Origin: "folder " + dir}, err
}

// tarball unpacks a file of this host, once, when its sum is the wanted one.
func (b Builder) tarball(ctx context.Context, file, want, name string) (Tree, error) {
	b.Step("checking %s", name)
	sum, err := sumOf(ctx, file)
	if err != nil {
		return Tree{}, err
	}
	if want != "" && sum != want {
		return Tree{}, wrongSum(name, sum, want)
	}
	t := b.treeOf(name, sum)
	return t, b.unpack(ctx, file, t.Dir)
}

// treeOf is what a tarball of that sum is unpacked to.
func (b Builder) treeOf(name, sum string) Tree {
	return Tree{Dir: b.dir("src", sum[:16]), ID: sumPrefix + sum, Origin: fmt.Sprintf("%s (sha256 %s)", name, sum)}
}

const sumPrefix = "sha256-"

// sum is the tarball's that a tree was in.
func (t Tree) sum() string { return strings.TrimPrefix(t.ID, sumPrefix) }

// unpacked returns the tree of a tarball that was unpacked before.
func (b Builder) unpacked(name, sum string) (Tree, bool) {
	if !shaForm.MatchString(sum) {
		return Tree{}, false
	}
	t := b.treeOf(name, sum)
	_, err := os.Stat(t.Dir)
	return t, err == nil
}

func wrongSum(name, got, want string) error {
	return hint.Add(fmt.Errorf("%s is not what it should be: its sha256 is %s, want %s", name, got, want),
		"it was changed or cut short on the way: get it again, and trust no sum that came the same way")
}

func sumOf(ctx context.Context, file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, ctxReader{ctx, f}); err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// ctxReader ends with the context.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (r ctxReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// unpack makes a tarball's files a folder, once.
func (b Builder) unpack(ctx context.Context, file, dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := b.room(treeBytes, "unpack the kernel's source"); err != nil {
		return err
	}
	b.Step("unpacking %s", filepath.Base(file))
	part, err := b.emptyDir(dir + ".partial")
	if err != nil {
		return err
	}
	argv := []string{"tar", "--extract", "--no-same-owner", "--strip-components=1", "--directory=" + part, "--file=" + file}
	if err := b.Runner.Run(ctx, proc.Cmd{Argv: argv, Env: english()}); err != nil {
		return errors.Join(wordy(fmt.Errorf("unpack %s: %w", file, err)), os.RemoveAll(part))
	}
	return errors.Join(b.giveTree(part), os.Rename(part, dir))
}

// dir is a place in the build folder, by the path that getcwd(2) gives: make
// compiles all anew when it sees another path to the same files.
func (b Builder) dir(elem ...string) string {
	base := b.Paths.KernelBuild()
	if real, err := filepath.EvalSymlinks(base); err == nil {
		base = real
	}
	return filepath.Join(append([]string{base}, elem...)...)
}

// emptyDir makes a folder anew.
func (b Builder) emptyDir(dir string) (string, error) {
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	return dir, b.Paths.MkdirAll(dir, 0o755)
}

// giveTree makes dir, if it is there, and all below it the owner's.
func (b Builder) giveTree(dir string) error {
	if b.Paths.Owner.UID == 0 {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return b.Paths.Owner.Give(path)
	})
}

// english is the environment of tools whose words are read: wordy knows no others.
// LC_ALL=C counts before LANGUAGE too.
func english() []string { return append(os.Environ(), "LC_ALL=C") }

// wordy adds advice to the errors that tools word badly.
func wordy(err error) error {
	text := ""
	if exit, ok := errors.AsType[*proc.ExitError](err); ok {
		text = exit.Stderr
	}
	switch {
	case strings.Contains(text, "No space left on device"):
		return hint.Add(err, "the disk is full: make room, then call it again; what was downloaded whole or compiled is kept")
	case errors.Is(err, proc.ErrNotFound):
		return hint.Add(err, "install it, or run ./dist-conf.sh --with-kernel-build")
	}
	return err
}
