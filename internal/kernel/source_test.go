package kernel_test

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/kernel"
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
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(file))))
	defer server.Close()
	url := server.URL + "/linux-6.1.tar.gz"
	b.wantError(source(url, ""), "cannot be verified", "--sha256")
	b.wantError(source(url, strings.Repeat("1", 64)), "is not what it should be", sum)
	b.wantError(source(server.URL+"/linux-6.2.tar.gz", sum), "404")
	b.mustBuild(source(url, sum))
	left, _ := filepath.Glob(filepath.Join(b.root, "data/build/kernel/download/*"))
	if len(left) != 0 {
		t.Errorf("left in the downloads: %v", left)
	}
	// The pin of kernel.conf is the default, where no tag can be verified.
	b.write(filepath.Join(b.root, "conf/kernel/kernel.conf"), "version = 6.1\nfragments = base\ntarball = "+url+"\nsha256 = "+sum+"\n")
	b.mustBuild(kernel.Options{})
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
	run := func(args ...string) string {
		cmd := exec.Command(git, append([]string{"-C", b.src, "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			b.t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("init", "-q", "-b", "main")
	run("add", ".")
	run("commit", "-q", "-m", "one")
	run("tag", "-a", "-m", "v6.1", "v6.1")
	return "file://" + b.src, run("rev-parse", "HEAD")
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
