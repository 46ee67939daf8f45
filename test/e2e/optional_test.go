package e2e

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const alpine = "mos_demo-alpine"

// restoreOptional lays mos_demo's optional target again, with another mirror.
func restoreOptional(t *testing.T, root, mirror string) {
	t.Helper()
	for _, name := range optionalFiles {
		from, to := filepath.Join("../../conf/target/mos_demo", name), filepath.Join(root, "conf/target/mos_demo", name)
		if info, err := os.Stat(from); err == nil && info.IsDir() {
			if err := os.CopyFS(to, os.DirFS(from)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer("https://dl-cdn.alpinelinux.org/alpine", mirror, `release="3.22"`, `release="3.20"`).Replace(string(content))
		write(t, root, "mos_demo/"+name, text, 0o644)
	}
}

// nobody returns the address of a mirror at which nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer closed.Close()
	return "http://" + closed.Addr().String()
}

// testLeftOut has an optional target whose mirror is not there: the family is
// built without it, and the reason told.
func testLeftOut(t *testing.T, root string) {
	mustRun(t, root, "build", "mos_demo")
	restoreOptional(t, root, nobody(t))
	r := mustRun(t, root, "build", "mos_demo")
	for _, want := range []string{alpine + ": left out: it is optional, and mirror: http://127.0.0.1:", "connection refused", "meros build mos_demo alpine", box + " is up to date"} {
		if !strings.Contains(r.err, want) {
			t.Errorf("build says\n%swant %q", r.err, want)
		}
	}
	if r := mustRun(t, root, "build", "mos_demo", "--plan"); !strings.Contains(r.out, alpine+": left out: ") || !strings.Contains(r.out, box+"  pack       kept") {
		t.Errorf("--plan says\n%s", r.out)
	}
	wantFailure(t, meros(t, root, "build", "mos_demo", "alpine"), 1, "build "+alpine, "connection refused", "hint")
	wantFailure(t, meros(t, root, "init", alpine), 1, alpine, "meros build mos_demo alpine")
	wantNothingHalfMade(t, root)
}

// testOptionalBuilt builds the same target where its mirror is there. repo has no
// OpenRC, so that this image is not one to boot.
func testOptionalBuilt(t *testing.T, root string, repo *apkRepo) {
	for _, name := range []string{"alpine-base", "acpid"} {
		repo.add(t, "main", name, stage(t, map[string][]byte{"usr/share/doc/" + name: []byte(name)}))
	}
	repo.index(t, "main")
	mirror := httptest.NewServer(http.FileServer(http.Dir(repo.dir)))
	defer mirror.Close()
	restoreOptional(t, root, mirror.URL)
	write(t, root, "mos_demo/rootfs/alpine/includes.chroot/etc/apk/keys/"+keyName, repo.publicKey(t), 0o644)
	if r := mustRun(t, root, "build", "mos_demo"); !strings.Contains(r.err, alpine+": built in") {
		t.Errorf("build says\n%s", r.err)
	}
	mirror.Close()
	mustRun(t, root, "cache", "prune", "--all")
	if r := mustRun(t, root, "build", "mos_demo"); !strings.Contains(r.err, alpine+" is up to date") {
		t.Errorf("a second build, without the mirror, says\n%s", r.err)
	}
	wantNothingHalfMade(t, root)
}
