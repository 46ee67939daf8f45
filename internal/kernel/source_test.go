package kernel_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"meros/internal/kernel"
	"meros/internal/stall"
	"meros/internal/ui"
)

// pack makes a tarball of the bench's tree and returns it with its sum.
func (b *bench) pack() (file, sum string) {
	b.t.Helper()
	file = filepath.Join(b.t.TempDir(), "linux-6.1.tar.gz")
	if out, err := exec.Command("tar", "-czf", file, "-C", filepath.Dir(b.src), "linux").CombinedOutput(); err != nil {
		b.t.Fatalf("%v: %s", err, out)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		b.t.Fatal(err)
	}
	h := sha256.Sum256(content)
	return file, hex.EncodeToString(h[:])
}

func source(s, sum string) kernel.Options {
	return kernel.Options{Request: kernel.Request{Source: s, SHA256: sum}}
}

func TestTarball(t *testing.T) {
	b := newBench(t)
	file, sum := b.pack()
	b.wantError(source(file, strings.Repeat("0", 64)), "is not what it should be", sum)
	r := b.mustBuild(source(file, sum))
	if !strings.Contains(r.Source, sum) {
		t.Errorf("origin %q lacks the sum", r.Source)
	}
}

func TestRemoteTarball(t *testing.T) {
	b := newBench(t)
	file, sum := b.pack()
	var asked atomic.Int32
	files := http.FileServer(http.Dir(filepath.Dir(file)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		files.ServeHTTP(w, r)
	}))
	defer server.Close()
	url := server.URL + "/linux-6.1.tar.gz"
	b.wantError(source(url, ""), "cannot be verified", "--sha256")
	b.wantError(source(url, strings.Repeat("1", 64)), "is not what it should be", sum)
	b.wantError(source(server.URL+"/linux-6.2.tar.gz", sum), "404")
	// What was downloaded and verified is there still when it could not be unpacked.
	tar, err := os.Readlink(filepath.Join(b.bin, "tar"))
	if err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(b.bin, "tar"))
	b.shim("tar", "#!/bin/sh\necho 'tar: No space left on device' >&2\nexit 2\n")
	b.wantError(source(url, sum), "unpack", "the disk is full", "what was downloaded whole or compiled is kept")
	b.shim("tar", "#!/bin/sh\nexec "+tar+" \"$@\"\n")
	asked.Store(0)
	b.mustBuild(source(url, sum))
	if n := asked.Load(); n != 0 {
		t.Errorf("the server was asked %d times for what was there", n)
	}
	left, _ := filepath.Glob(filepath.Join(b.root, "data/build/kernel/download/*"))
	if len(left) != 0 {
		t.Errorf("left in the downloads: %v", left)
	}
	// The pin of kernel.conf is the default, where no tag can be verified.
	b.write(filepath.Join(b.root, "conf/kernel/kernel.conf"), "version = 6.1\nfragments = base\ntarball = "+url+"\nsha256 = "+sum+"\n")
	b.mustBuild(kernel.Options{})
}

// Two builds that want one file at once: the second may not write into what the
// first has verified, and gets the same.
func TestDownloadsOfOneFileAtOnce(t *testing.T) {
	b := newBench(t)
	good := []byte("what the sum is of")
	h := sha256.Sum256(good)
	sum := hex.EncodeToString(h[:])
	var asked atomic.Int32
	begun, spoilt := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) > 1 {
			_, _ = w.Write([]byte("something else"))
			close(spoilt)
			return
		}
		_, _ = w.Write(good[:4])
		w.(http.Flusher).Flush()
		close(begun)
		select {
		case <-spoilt:
			time.Sleep(50 * time.Millisecond)
		case <-time.After(500 * time.Millisecond):
		}
		_, _ = w.Write(good[4:])
	}))
	defer server.Close()
	download := func() (string, error) {
		builder := b.builder()
		builder.Streams = &ui.Streams{Err: io.Discard}
		return builder.Download(t.Context(), server.URL+"/vmlinuz", sum)
	}
	second := make(chan error)
	go func() {
		<-begun
		_, err := download()
		second <- err
	}()
	file, err := download()
	if err := errors.Join(err, <-second); err != nil {
		t.Fatal(err)
	}
	if got := sumOf(t, file); got != sum || asked.Load() != 1 {
		t.Errorf("the file has sum %s, want %s; the server was asked %d times, want 1", got, sum, asked.Load())
	}
}

// A server that takes the request and never answers, or stops in the middle, is
// given up.
func TestSilentServer(t *testing.T) {
	for name, begin := range map[string]func(http.ResponseWriter){
		"no answer": func(http.ResponseWriter) {},
		"half a file": func(w http.ResponseWriter) {
			_, _ = w.Write([]byte("half"))
			w.(http.Flusher).Flush()
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			ended := make(chan struct{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				begin(w)
				<-ended
			}))
			defer server.Close()
			defer close(ended)
			builder := b.builder()
			builder.Stall = 100 * time.Millisecond
			_, err := builder.Download(t.Context(), server.URL+"/linux.tar.xz", strings.Repeat("1", 64))
			if !errors.Is(err, stall.ErrSilent) || !strings.Contains(err.Error(), server.URL) {
				t.Errorf("Download = %v, want ErrSilent and the address", err)
			}
			if left, _ := filepath.Glob(filepath.Join(b.root, "data/build/kernel/download/*")); len(left) != 0 {
				t.Errorf("left in the downloads: %v", left)
			}
		})
	}
}

// git gives up by itself, if it is told to.
func TestGitGivesUpSilentServers(t *testing.T) {
	b := newBench(t)
	b.shim("git", "#!/bin/sh\necho \"$@\" >>"+b.root+"/git-calls\ncase $* in *fetch*) exit 1 ;; esac\n")
	b.wantError(kernel.Options{Request: kernel.Request{Source: "https://example.org/linux.git", Tag: "v6.1", Commit: strings.Repeat("0", 40)}}, "fetch v6.1")
	calls, err := os.ReadFile(filepath.Join(b.root, "git-calls"))
	if err != nil || !strings.Contains(string(calls), "http.lowSpeedLimit=1 -c http.lowSpeedTime=120 fetch") {
		t.Errorf("git was called as %q, %v", calls, err)
	}
}

// Where the pinned source cannot be had, the host's distribution may have one.
func TestDistroSourceIsHinted(t *testing.T) {
	b := newBench(t)
	b.shim("apt-get", "#!/bin/sh\n")
	b.wantError(kernel.Options{}, "names no source that can be verified", "this host's distribution has a kernel source of its own: meros kernel-build --source distro")
}

// repository makes a git repository of the bench's tree with the tag v6.1.
func (b *bench) repository() (url, commit string) {
	b.t.Helper()
	git, err := exec.LookPath("/usr/bin/git")
	if err != nil {
		b.t.Skip("this host has no git")
	}
	if err := os.Symlink(git, filepath.Join(b.bin, "git")); err != nil {
		b.t.Fatal(err)
	}
	b.inSource("init", "-q", "-b", "main")
	b.inSource("add", ".")
	b.inSource("commit", "-q", "-m", "one")
	b.inSource("tag", "-a", "-m", "v6.1", "v6.1")
	return "file://" + b.src, b.inSource("rev-parse", "HEAD")
}

// inSource is what git says of the bench's tree.
func (b *bench) inSource(args ...string) string {
	b.t.Helper()
	cmd := exec.Command("/usr/bin/git", append([]string{"-C", b.src, "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestGitTag(t *testing.T) {
	b := newBench(t)
	url, commit := b.repository()
	request := func(tag, commit string) kernel.Options {
		return kernel.Options{Request: kernel.Request{Source: url, Tag: tag, Commit: commit}}
	}
	b.wantError(request("v6.1", ""), "cannot be verified", "--commit "+commit)
	b.wantError(request("v6.1", strings.Repeat("0", 40)), "points to commit "+commit, "somebody moved the tag")
	b.wantError(request("v6.2", commit), "v6.2", "the repository has no tag v6.2")
	b.wantError(request("main", commit), "branches are not taken")
	b.wantError(request("--upload-pack=x", commit), "is no tag's name")
	r := b.mustBuild(request("v6.1", commit))
	if !strings.Contains(r.Source, commit) {
		t.Errorf("origin %q lacks the commit", r.Source)
	}
	if left, _ := filepath.Glob(filepath.Join(b.root, "data/build/kernel/src/*.partial")); len(left) != 0 {
		t.Errorf("left half-made: %v", left)
	}
}

// What was fetched and could not be verified, or not be checked out, is not
// fetched again once it can be.
func TestGitTagIsFetchedOnce(t *testing.T) {
	b := newBench(t)
	url, commit := b.repository()
	if err := os.Remove(filepath.Join(b.bin, "git")); err != nil {
		t.Fatal(err)
	}
	calls := filepath.Join(b.root, "git-calls")
	git := func(failing string) {
		b.shim("git", "#!/bin/sh\necho \"$@\" >>"+calls+"\ncase $* in *"+failing+"*) exit 1 ;; esac\nexec /usr/bin/git \"$@\"\n")
	}
	request := kernel.Options{Request: kernel.Request{Source: url, Tag: "v6.1"}}
	git("nonesuch")
	b.wantError(request, "cannot be verified", "--commit "+commit)
	request.Commit = commit
	git("checkout")
	b.wantError(request, "check out v6.1")
	git("nonesuch")
	if r := b.mustBuild(request); !strings.Contains(r.Source, commit) {
		t.Errorf("origin %q lacks the commit", r.Source)
	}
	if made, err := os.ReadFile(calls); err != nil || strings.Count(string(made), "fetch --quiet") != 1 {
		t.Errorf("git was called as %q, %v, want one fetch", made, err)
	}
}

// A tag that was moved since it could not be verified is fetched as it is now.
func TestGitTagThatMovedIsFetchedAnew(t *testing.T) {
	b := newBench(t)
	url, _ := b.repository()
	request := kernel.Options{Request: kernel.Request{Source: url, Tag: "v6.1"}}
	b.wantError(request, "cannot be verified")
	commit := b.inSource("commit-tree", "-m", "two", "HEAD^{tree}")
	b.inSource("update-ref", "refs/tags/v6.1", commit)
	request.Commit = commit
	b.mustBuild(request)
}

// Without a source, a tag is one of kernel.conf's repository, and the pin there is
// of its own tag only.
func TestTagOfConf(t *testing.T) {
	b := newBench(t)
	url, commit := b.repository()
	conf := filepath.Join(b.root, "conf/kernel/kernel.conf")
	b.write(conf, "version = 6.9\nfragments = base\ngit = "+url+"\ntag = v6.9\ncommit = "+strings.Repeat("9", 40)+"\n")
	b.wantError(kernel.Options{Request: kernel.Request{Tag: "v6.1"}}, "cannot be verified", "--commit "+commit)
	b.write(conf, "version = 6.1\nfragments = base\ngit = "+url+"\ntag = v6.1\ncommit = "+strings.Repeat("9", 40)+"\n")
	b.wantError(kernel.Options{Request: kernel.Request{Tag: "v6.1"}}, "points to commit "+commit)
	b.wantError(kernel.Options{Request: kernel.Request{Source: url}}, "points to commit "+commit)
	b.write(conf, "version = 6.1\nfragments = base\n")
	b.wantError(kernel.Options{Request: kernel.Request{Tag: "v6.1"}}, "kernel.conf names no git repository", "--source")
	b.write(conf, "version = 6.9\nfragments = base\ngit = "+url+"\ntag = v6.9\ncommit = "+strings.Repeat("9", 40)+"\n")
	r := b.mustBuild(kernel.Options{Request: kernel.Request{Tag: "v6.1", Commit: commit}})
	if !strings.Contains(r.Source, url+" tag v6.1, commit "+commit) {
		t.Errorf("the source is %q", r.Source)
	}
}

func TestRequestCheck(t *testing.T) {
	sum, commit, folder := strings.Repeat("1", 64), strings.Repeat("2", 40), t.TempDir()
	for _, c := range []struct {
		q    kernel.Request
		want string // "": nothing is wrong
	}{
		{kernel.Request{}, ""},
		{kernel.Request{Tag: "v6.1", Commit: commit}, ""},
		{kernel.Request{Source: "https://example.org/linux.git", Tag: "v6.1"}, ""},
		{kernel.Request{Source: "https://example.org/linux.tar.xz", SHA256: sum}, ""},
		{kernel.Request{Source: folder + "/linux.tar", SHA256: sum}, ""},
		{kernel.Request{Source: "git@example.org:linux.git"}, `--source: "git@example.org:linux.git" is no address`},
		{kernel.Request{Source: "ftp://example.org/linux.tar.xz", SHA256: sum}, "is no address"},
		{kernel.Request{Source: folder + "/linux-a:b.tar.xz"}, ""},
		{kernel.Request{Tag: "--x"}, `--tag: "--x" is no tag's name`},
		{kernel.Request{Commit: "abc"}, `--commit: "abc" is no commit: want 40 or 64`},
		{kernel.Request{Commit: strings.Repeat("2", 64)}, ""},
		{kernel.Request{SHA256: sum}, "--sha256 is the sum of a tarball, and the source is what kernel.conf pins"},
		{kernel.Request{Source: "distro", SHA256: sum}, "the source is a package of this host's distribution"},
		{kernel.Request{Source: folder, SHA256: sum}, "the source is a folder"},
		{kernel.Request{Source: "https://example.org/linux.git", SHA256: sum}, "the source is a git repository"},
		{kernel.Request{Source: "https://example.org/linux.tar.xz", SHA256: "11"}, `--sha256: "11" is no sha256`},
		{kernel.Request{Source: "distro", Tag: "v6.1"}, "--tag and --commit are of a git repository"},
		{kernel.Request{Source: folder, Commit: commit}, "the source is a folder"},
		{kernel.Request{Source: "https://example.org/linux.tar.xz", Commit: commit}, "the source is a tarball"},
	} {
		err := c.q.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("Check of %+v = %v, want %q", c.q, err, c.want)
		}
	}
}

// After a change of the fragments the kernel is built of the same source, known to
// be the same in the same way.
func TestEnsureVerifiesAsAsked(t *testing.T) {
	ensure := func(b *bench, want string) {
		b.t.Helper()
		b.write(filepath.Join(b.root, "conf/kernel/base.config"), "CONFIG_A=y\nCONFIG_B=y\n")
		r, _, err := b.builder().Ensure(b.t.Context(), "x86_64")
		if err != nil || !strings.Contains(r.Source, want) {
			b.t.Errorf("Ensure = %+v, %v, want a source of %s", r, err, want)
		}
	}
	t.Run("tag", func(t *testing.T) {
		b := newBench(t)
		url, commit := b.repository()
		// kernel.conf's own tag is another one.
		b.write(filepath.Join(b.root, "conf/kernel/kernel.conf"), "version = 6.9\nfragments = base\ngit = "+url+"\ntag = v6.9\n")
		b.mustBuild(kernel.Options{Request: kernel.Request{Source: url, Tag: "v6.1", Commit: commit}})
		ensure(b, commit)
	})
	t.Run("tarball", func(t *testing.T) {
		b := newBench(t)
		file, sum := b.pack()
		server := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(file))))
		defer server.Close()
		b.mustBuild(source(server.URL+"/linux-6.1.tar.gz", sum))
		ensure(b, sum)
	})
}

// TestGitSignature signs tags with keys made for the test.
func TestGitSignature(t *testing.T) {
	b := newBench(t)
	if _, err := exec.LookPath("/usr/bin/gpg"); err != nil {
		t.Skip("this host has no gpg")
	}
	url, _ := b.repository()
	home, err := os.MkdirTemp("", "gpg-") // gpg-agent's socket wants a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GNUPGHOME", home)
	t.Setenv("PATH", b.bin+":/usr/bin:/bin")
	run := func(argv ...string) string {
		t.Helper()
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", argv, err, out)
		}
		return string(out)
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--kill", "all").Run()
		os.RemoveAll(home)
	})
	run("gpg", "--batch", "--passphrase", "", "--quick-generate-key", "Signer <signer@example.org>", "ed25519")
	var signer string
	for line := range strings.Lines(run("gpg", "--batch", "--with-colons", "--list-keys")) {
		if rest, ok := strings.CutPrefix(line, "fpr:::::::::"); ok && signer == "" {
			signer = strings.TrimSuffix(strings.TrimSpace(rest), ":")
		}
	}
	run("git", "-C", b.src, "-c", "user.name=Signer", "-c", "user.email=signer@example.org", "tag", "-s", "-m", "signed", "v6.2")

	conf := filepath.Join(b.root, "conf/kernel/kernel.conf")
	b.write(conf, "version = 6.2\nfragments = base\nsigners = "+strings.Repeat("A", 40)+"\ngit = "+url+"\ntag = v6.2\n")
	b.wantError(kernel.Options{Request: kernel.Request{Source: url}}, "is signed by "+signer, "which kernel.conf does not name")
	b.write(conf, "version = 6.2\nfragments = base\nsigners = "+signer+"\ngit = "+url+"\ntag = v6.2\n")
	if r := b.mustBuild(kernel.Options{}); !strings.Contains(r.Source, "signed by "+signer) {
		t.Errorf("origin %q does not name the signer", r.Source)
	}
	// An old tag, well signed, under the name of a newer one.
	run("git", "-C", b.src, "update-ref", "refs/tags/v6.4", strings.TrimSpace(run("git", "-C", b.src, "rev-parse", "refs/tags/v6.2")))
	_, err = b.build(t.Context(), kernel.Options{Request: kernel.Request{Source: url, Tag: "v6.4"}})
	if err == nil || !strings.Contains(err.Error(), "tag v6.4 is in truth the tag v6.2") {
		t.Errorf("an old tag under a new name: %v", err)
	}
	// A tag whose text was changed after it was signed.
	forged := strings.ReplaceAll(run("git", "-C", b.src, "cat-file", "tag", "v6.2"), "\nsigned\n", "\nforged\n")
	forged = strings.ReplaceAll(forged, "tag v6.2", "tag v6.3")
	cmd := exec.Command("git", "-C", b.src, "hash-object", "-t", "tag", "-w", "--stdin")
	cmd.Stdin = strings.NewReader(forged)
	sum, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	run("git", "-C", b.src, "update-ref", "refs/tags/v6.3", strings.TrimSpace(string(sum)))
	_, err = b.build(t.Context(), kernel.Options{Request: kernel.Request{Source: url, Tag: "v6.3"}})
	if err == nil || !strings.Contains(err.Error(), "has a wrong signature") {
		t.Errorf("a forged tag: %v", err)
	}
}
