package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"meros/internal/hint"
	"meros/internal/proc"
	"meros/internal/stall"
)

// pinned gets the source that kernel.conf names: by git where the tag can be
// verified, else as a tarball with a sum. A tag or commit of the call's is looked
// for in the same repository, and only there: the tarball is of kernel.conf's tag.
func (b Builder) pinned(ctx context.Context, c Conf, q Request) (Tree, error) {
	var t Tree
	var err error
	asked := q.Tag != "" || q.Commit != ""
	switch r := c.repo(c.Git, q); {
	case asked && c.Git == "":
		return t, hint.Add(errors.New("kernel.conf names no git repository that could have the tag"), "name one with --source")
	case asked, c.Git != "" && (r.commit != "" || b.hasKey(ctx, c.Signers)) && installed("git"):
		t, err = b.git(ctx, r)
	case c.Tarball != "":
		b.Step("none of the keys that sign kernels is in your keyring: taking the tarball with the pinned sum")
		t, err = b.remoteTarball(ctx, c.Tarball, c.SHA256)
	default:
		err = hint.Add(errors.New("kernel.conf names no source that can be verified"), "give it commit, or tarball and sha256")
	}
	if err != nil && ctx.Err() == nil && hasDistroSource() {
		err = hint.Add(err, "this host's distribution has a kernel source of its own: meros kernel-build --source %s", Distro)
	}
	return t, err
}

func installed(program string) bool {
	_, err := proc.Find(program)
	return err == nil
}

// hasKey reports whether the person's keyring has one of the keys.
func (b Builder) hasKey(ctx context.Context, signers []string) bool {
	return installed("gpg") && slices.ContainsFunc(signers, func(s string) bool {
		return b.Runner.Run(ctx, proc.Cmd{Argv: []string{"gpg", "--batch", "--list-keys", s}}) == nil
	})
}

// repo is a tag of a git repository and what verifies it.
type repo struct {
	url, tag, commit string
	signers          []string
}

// repo is the tag that a request means of the repository at url. What kernel.conf
// pins holds for its own tag of its own repository.
func (c Conf) repo(url string, q Request) repo {
	r := repo{url: url, tag: firstOf(q.Tag, c.Tag), commit: q.Commit, signers: c.Signers}
	if r.commit == "" && url == c.Git && r.tag == c.Tag {
		r.commit = c.Commit
	}
	return r
}

// git fetches one tag, nothing before it, and verifies it.
func (b Builder) git(ctx context.Context, r repo) (Tree, error) {
	if !tagForm.MatchString(r.tag) {
		return Tree{}, noTag(r.tag)
	}
	if r.commit != "" && !commitForm.MatchString(r.commit) {
		return Tree{}, noCommit(r.commit)
	}
	sum := sha256.Sum256([]byte(r.url + " " + r.tag))
	dir := b.dir("src", "git-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); err != nil {
		if err := b.fetch(ctx, r, dir); err != nil {
			return Tree{}, err
		}
	}
	commit, how, err := b.verify(ctx, r, dir)
	if err != nil {
		return Tree{}, err
	}
	return Tree{Dir: dir, ID: "commit-" + commit, Origin: fmt.Sprintf("%s tag %s, commit %s (%s)", r.url, r.tag, commit, how)}, nil
}

func noTag(s string) error { return fmt.Errorf("%q is no tag's name", s) }

func noCommit(s string) error {
	return fmt.Errorf("%q is no commit: want 40 or 64 hexadecimal digits in lower case", s)
}

// fetch clones into a folder beside dir, which takes its name when it is verified.
// What an earlier call has fetched and could not verify or check out is there still.
func (b Builder) fetch(ctx context.Context, r repo, dir string) error {
	if err := b.room(treeBytes, "fetch the kernel's source"); err != nil {
		return err
	}
	part := dir + ".partial"
	if err := errors.Join(b.checkedOut(ctx, r, part), b.giveTree(part)); err != nil {
		return err
	}
	return os.Rename(part, dir)
}

// checkedOut makes dir the files of a verified tag.
func (b Builder) checkedOut(ctx context.Context, r repo, dir string) error {
	if _, _, err := b.verify(ctx, r, dir); err != nil {
		if err := b.fetchTag(ctx, r, dir); err != nil {
			return err
		}
		if _, _, err := b.verify(ctx, r, dir); err != nil {
			return err
		}
	}
	// A git that was killed leaves its lock.
	if err := os.Remove(filepath.Join(dir, ".git", "index.lock")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := b.runGit(ctx, dir, nil, nil, "checkout", "--quiet", "--force", "--detach", "refs/tags/"+r.tag); err != nil {
		return wordy(fmt.Errorf("check out %s: %w", r.tag, err))
	}
	return nil
}

// fetchTag fetches a tag into a folder, but for what is in there already.
func (b Builder) fetchTag(ctx context.Context, r repo, dir string) error {
	if err := b.mayFetch(r.url, r.tag+" of "); err != nil {
		return err
	}
	b.Step("fetching %s %s", r.url, r.tag)
	if err := b.Paths.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	ref := "refs/tags/" + r.tag
	for _, argv := range [][]string{
		{"init", "--quiet"},
		append(silentServers(), "fetch", "--quiet", "--depth=1", "--no-tags", "--", r.url, "+"+ref+":"+ref),
	} {
		if err := b.runGit(ctx, dir, nil, nil, argv...); err != nil {
			return errors.Join(fetchHint(fmt.Errorf("fetch %s of %s: %w", r.tag, r.url, err), r), os.RemoveAll(dir))
		}
	}
	return nil
}

// errOffline is wrapped when the network would be needed and is not to be used.
var errOffline = errors.New("not here yet, and nothing is taken from the network (--offline)")

// mayFetch refuses what is not on this host, offline.
func (b Builder) mayFetch(url, what string) error {
	if !b.Offline || strings.HasPrefix(url, "file://") {
		return nil
	}
	return hint.Add(fmt.Errorf("%s%s: %w", what, url, errOffline), "get it once without --offline: it is kept")
}

// silentServers are git's options for giving up a server that sends nothing for
// two minutes. While it collects what to send, it sends next to nothing.
func silentServers() []string {
	return []string{"-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=120"}
}

func fetchHint(err error, r repo) error {
	text := err.Error()
	if strings.Contains(text, "couldn't find remote ref") {
		return hint.Add(err, "the repository has no tag %s: name another with --tag; branches are not taken", r.tag)
	}
	if strings.Contains(text, "resolve") || strings.Contains(text, "onnect") || strings.Contains(text, "unable to access") {
		return hint.Add(wordy(err), "is the network up, and does it let you there? --source takes a folder or a tarball too")
	}
	return wordy(err)
}

func (b Builder) runGit(ctx context.Context, dir string, out, errs io.Writer, args ...string) error {
	// A folder that is no repository yet is not to be taken for a part of one above.
	env := append(english(), "GIT_TERMINAL_PROMPT=0", "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
	// safe.directory: under sudo the clone belongs to the caller.
	return b.Runner.Run(ctx, proc.Cmd{Argv: append([]string{"git", "-C", dir, "-c", "safe.directory=" + dir}, args...), Env: env, Stdout: out, Stderr: errs})
}

// verify returns the commit of the tag and how it is known to be the right one.
func (b Builder) verify(ctx context.Context, r repo, dir string) (commit, how string, err error) {
	var out, status strings.Builder
	if err := b.runGit(ctx, dir, &out, nil, "rev-parse", "refs/tags/"+r.tag+"^{commit}"); err != nil {
		return "", "", fmt.Errorf("find the commit of %s: %w", r.tag, err)
	}
	commit = strings.TrimSpace(out.String())
	if r.commit != "" {
		if commit != r.commit {
			return "", "", hint.Add(fmt.Errorf("tag %s points to commit %s, want %s", r.tag, commit, r.commit), "somebody moved the tag, or the pin is of another one: do not build it before you know")
		}
		return commit, "the pinned commit", nil
	}
	if err := b.tagIsNamed(ctx, r.tag, dir); err != nil {
		return "", "", err
	}
	err = b.runGit(ctx, dir, nil, &status, "verify-tag", "--raw", r.tag)
	signer := signerOf(status.String())
	switch {
	case signer != "" && err == nil && slices.Contains(r.signers, signer):
		return commit, "signed by " + signer, nil
	case signer != "" && err == nil:
		err = fmt.Errorf("tag %s is signed by %s, which kernel.conf does not name as a signer", r.tag, signer)
	case strings.Contains(status.String(), "BADSIG"):
		err = fmt.Errorf("tag %s has a wrong signature", r.tag)
	default:
		err = fmt.Errorf("tag %s of %s cannot be verified: no valid signature by a known key", r.tag, r.url)
	}
	return "", "", hint.Add(err, "get the signer's key into your gpg keyring, or name the commit that you trust: --commit %s", commit)
}

// tagIsNamed makes sure that a signature is of the very tag: the name that a
// server gives a tag is not signed, only the one inside of it is. Without this, a
// mirror could pass an old tag for a new one.
func (b Builder) tagIsNamed(ctx context.Context, tag, dir string) error {
	var object strings.Builder
	if b.runGit(ctx, dir, &object, nil, "cat-file", "tag", "refs/tags/"+tag) != nil {
		return nil // no tag that could be signed, as verify-tag will say
	}
	head, _, _ := strings.Cut(object.String(), "\n\n")
	for line := range strings.Lines(head) {
		if name, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "tag "); ok && name != tag {
			return hint.Add(fmt.Errorf("tag %s is in truth the tag %s", tag, name), "the server gives out one version as another: do not build it")
		}
	}
	return nil
}

// signerOf finds the primary key's fingerprint in gpg's status lines (VALIDSIG,
// last field; doc/DETAILS of GnuPG).
func signerOf(status string) string {
	for line := range strings.Lines(status) {
		words := strings.Fields(line)
		if len(words) > 2 && words[0] == "[GNUPG:]" && words[1] == "VALIDSIG" {
			return words[len(words)-1]
		}
	}
	return ""
}

// remoteTarball downloads a tarball whose sum is known beforehand.
func (b Builder) remoteTarball(ctx context.Context, url, want string) (Tree, error) {
	if want == "" {
		return Tree{}, hint.Add(fmt.Errorf("%s cannot be verified: its sum is not known", url), "give it with --sha256")
	}
	if !shaForm.MatchString(want) {
		return Tree{}, noSum(want)
	}
	if t, ok := b.unpacked(url, want); ok {
		return t, nil
	}
	file, err := b.Download(ctx, url, want)
	if err != nil {
		return Tree{}, err
	}
	t, err := b.tarball(ctx, file, want, url)
	if err != nil {
		return t, err // the next call has it already
	}
	return t, os.Remove(file)
}

// Kept is where Download keeps the file of a url and a sha256.
func (b Builder) Kept(url, sum string) string {
	return b.dir("download", sum[:16]+"-"+filepath.Base(url))
}

// Download gets a file whose sha256 is known into the build folder and returns
// its path; one that is there already is checked and taken.
func (b Builder) Download(ctx context.Context, url, want string) (string, error) {
	if !shaForm.MatchString(want) {
		return "", noSum(want)
	}
	unlock, err := b.lockFile(ctx, url, want)
	if err != nil {
		return "", err
	}
	defer unlock()
	file := b.Kept(url, want)
	if sum, err := sumOf(ctx, file); err == nil && sum == want {
		return file, nil
	}
	if err := b.Paths.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", err
	}
	if err := b.mayFetch(url, ""); err != nil {
		return "", err
	}
	b.Step("downloading %s", url)
	got, err := b.save(ctx, url, file+".partial")
	if err == nil && got != want {
		err = wrongSum(url, got, want)
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(file+".partial"))
	}
	return file, errors.Join(b.Paths.Owner.Give(file+".partial"), os.Rename(file+".partial", file))
}

// lockFile holds what is kept of one file: two builds may want it at once, and
// neither may write into what the other has verified.
func (b Builder) lockFile(ctx context.Context, url, sum string) (unlock func(), err error) {
	return b.Paths.Lock(ctx, "download-"+sum[:16], "download "+url, b.waiting)
}

func noSum(s string) error {
	return fmt.Errorf("%q is no sha256: want 64 hexadecimal digits in lower case", s)
}

// save writes what url gives to file, and returns its sha256.
func (b Builder) save(ctx context.Context, url, file string) (string, error) {
	body, err := b.open(ctx, url)
	if err != nil {
		return "", err
	}
	defer body.Close()
	f, err := os.Create(file)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(body, maxDownload+1))
	if err == nil && n > maxDownload {
		err = fmt.Errorf("more than %d MiB, which no kernel and no source of one has", int64(maxDownload)>>20)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("download %s: %w", url, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// maxDownload bounds what a server can fill the disk with: a source has 140 MiB, a
// distribution's kernel with all its debug symbols less than 1 GiB.
const maxDownload = 2 << 30

// open gives up a server that falls silent.
func (b Builder) open(ctx context.Context, url string) (io.ReadCloser, error) {
	if path, ok := strings.CutPrefix(url, "file://"); ok {
		return os.Open(path)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	limit := b.Stall
	if limit == 0 {
		limit = stall.Time
	}
	resp, err := stall.Do(http.DefaultClient, req, limit)
	if err != nil {
		return nil, hint.Add(fmt.Errorf("download %s: %w", url, err), "is the network up, and does it let you there?")
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("download %s: the server says %s", url, resp.Status)
	}
	return resp.Body, nil
}
