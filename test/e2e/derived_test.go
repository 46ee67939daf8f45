package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// ubuntuKeys is where a host has the keys of Ubuntu's archive.
const ubuntuKeys = "/usr/share/keyrings/ubuntu-archive-keyring.gpg"

// archive stands in for that of a distribution made of Debian: the packages of
// Debian's own, handed on, below indexes that the test makes and signs.
type archive struct {
	*httptest.Server
	gnupg string            // home of the key that signs
	files map[string][]byte // by path below the server's root

	handed atomic.Int32 // packages that were asked for
	spoil  string       // end of the paths whose content is changed on its way
	cut    string       // end of the paths whose answer breaks off
}

// gpg runs gpg with the archive's key.
func (a *archive) gpg(t *testing.T, in []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("gpg", append([]string{"--homedir", a.gnupg, "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"}, args...)...)
	cmd.Stdin = bytes.NewReader(in)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("gpg %v: %v\n%s", args, err, &errs)
	}
	return out
}

// newKey gives the archive a fresh key and returns its public half.
func (a *archive) newKey(t *testing.T) []byte {
	t.Helper()
	a.gnupg = t.TempDir()
	if err := os.Chmod(a.gnupg, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = exec.Command("gpgconf", "--homedir", a.gnupg, "--kill", "all").Run() })
	a.gpg(t, nil, "--quick-generate-key", "test archive <archive@example.invalid>", "rsa2048", "sign", "never")
	return a.gpg(t, nil, "--export")
}

// newArchive serves an archive by https. Its packages come from the mirror that
// this host's own apt is set to, as long as the test runs.
func newArchive(t *testing.T) *archive {
	t.Helper()
	if _, err := exec.LookPath("gpg"); err != nil {
		t.Skip(err)
	}
	a := &archive{files: map[string][]byte{}}
	upstream := aptMirror(t)
	a.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, ok := a.files[r.URL.Path]
		switch {
		case ok && a.spoil != "" && strings.HasSuffix(r.URL.Path, a.spoil):
			changed := bytes.Clone(content)
			changed[len(changed)/2] ^= 1
			_, _ = w.Write(changed)
		case ok && a.cut != "" && strings.HasSuffix(r.URL.Path, a.cut):
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
			_, _ = w.Write(content[:len(content)/2])
		case ok:
			_, _ = w.Write(content)
		case strings.HasPrefix(r.URL.Path, "/ubuntu/pool/"):
			a.handed.Add(1)
			handOn(w, upstream+strings.TrimPrefix(r.URL.Path, "/ubuntu"))
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(a.Close)
	return a
}

func handOn(w http.ResponseWriter, address string) {
	resp, err := http.Get(address)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

// aptMirror is where this host's apt has Debian's main archive from, be its lists
// downloaded or not.
func aptMirror(t *testing.T) string { return mirrorOf(t, "bookworm") }

// mirrorOf is where this host's apt has a suite from.
func mirrorOf(t *testing.T, suite string) string {
	t.Helper()
	for _, more := range [][]string{nil, {"--no-release-info"}} {
		argv := append([]string{"indextargets", "--format", "$(SITE)|$(RELEASE)|$(COMPONENT)|$(CREATED_BY)"}, more...)
		out, err := exec.Command("apt-get", argv...).Output()
		if err != nil {
			t.Skip(err)
		}
		for line := range strings.Lines(string(out)) {
			if site, rest, _ := strings.Cut(strings.TrimSpace(line), "|"); rest == suite+"|main|Packages" {
				return strings.TrimSuffix(site, "/")
			}
		}
	}
	t.Skipf("needs a mirror of %s in the host's apt sources", suite)
	return ""
}

// publish makes and signs the indexes of a suite: Debian's packages with one more,
// or none at all for its updates.
func (a *archive) publish(t *testing.T, suite string, packages []byte, until time.Time) {
	t.Helper()
	var release strings.Builder
	fmt.Fprintf(&release, "Origin: Ubuntu\nSuite: %s\nCodename: %s\nDate: %s\nValid-Until: %s\nArchitectures: amd64\nComponents: main universe\nSHA256:\n",
		suite, suite, time.Now().UTC().Add(-48*time.Hour).Format(time.RFC1123), until.UTC().Format(time.RFC1123))
	dir := "/ubuntu/dists/" + suite + "/"
	for component, content := range map[string][]byte{"main": packages, "universe": nil} {
		name := component + "/binary-amd64/Packages"
		a.files[dir+name] = content
		fmt.Fprintf(&release, " %x %d %s\n", sha256.Sum256(content), len(content), name)
	}
	a.files[dir+"InRelease"] = a.gpg(t, []byte(release.String()), "--clearsign")
}

// keyringPackage is the .deb by which a chroot of the distribution has its keys.
func (a *archive) keyringPackage(t *testing.T, key []byte) (entry string) {
	t.Helper()
	return a.ownPackage(t, "ubuntu-keyring", "1", strings.TrimPrefix(ubuntuKeys, "/"), key)
}

// ownPackage adds a package with one file to the archive, and returns its entry in
// the index.
func (a *archive) ownPackage(t *testing.T, name, version, holds string, content []byte) (entry string) {
	t.Helper()
	dir, deb := t.TempDir(), filepath.Join(t.TempDir(), "k.deb")
	control := "Package: " + name + "\nVersion: " + version + "\nArchitecture: all\nMaintainer: test <t@example.invalid>\nDescription: test\n"
	for name, content := range map[string][]byte{"DEBIAN/control": []byte(control), holds: content} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "--build", dir, deb).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v\n%s", err, out)
	}
	packed, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	at := "pool/main/" + name + "_" + version + "_all.deb"
	a.files["/ubuntu/"+at] = packed
	return fmt.Sprintf("%sFilename: %s\nSize: %d\nSHA256: %x\n\n", control, at, len(packed), sha256.Sum256(packed))
}

// debianPackages is the index of Debian's archive.
func debianPackages(t *testing.T) []byte { return index(t, aptMirror(t), "bookworm") }

// index is the list of a suite's packages at a mirror.
func index(t *testing.T, mirror, suite string) []byte {
	t.Helper()
	resp, err := http.Get(mirror + "/dists/" + suite + "/main/binary-amd64/Packages.xz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s of %s: %s", mirror, suite, resp.Status)
	}
	xz := exec.Command("xz", "-dc")
	xz.Stdin = resp.Body
	content, err := xz.Output()
	if err != nil {
		t.Fatalf("xz: %v", err)
	}
	return content
}

// TestDerivedDistribution builds a target of a distribution made of Debian from an
// archive reached by https, and has that archive lie.
func TestDerivedDistribution(t *testing.T) {
	needHost(t)
	a := newArchive(t)
	packages := debianPackages(t)
	key := a.newKey(t)
	packages = append([]byte(a.keyringPackage(t, key)), packages...)
	old := append([]byte(a.ownPackage(t, "tool", "1", "usr/share/tool", []byte("old"))), packages...)
	now := append([]byte(a.ownPackage(t, "tool", "2", "usr/share/tool", []byte("new"))), packages...)
	good := time.Now().Add(time.Hour)
	for _, suite := range []string{"noble", "noble-updates", "noble-security"} {
		content := packages
		if suite != "noble" {
			content = nil
		}
		a.publish(t, suite, content, good)
	}
	root := newRoot(t)
	write(t, root, "mos_ubu/build/u.xml", `<target><build id="u" distro="ubuntu" release="noble" kernel="no" mirror="`+a.URL+`/ubuntu"/><size free_space_mb="20"/></target>`, 0o644)
	certificate := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	build := func(args ...string) result {
		t.Helper()
		return call{root: root, args: append([]string{"build", "mos_ubu"}, args...), env: []string{"SSL_CERT_FILE=" + certificate}}.run(t)
	}
	ownKeyrings(t)

	wantFailure(t, build(), 1, "bootstrap noble", ubuntuKeys, "hint", "ubuntu-keyring")
	other := (&archive{}).newKey(t)
	giveKeys(t, other)
	wantFailure(t, build(), 1, "bootstrap noble", "NO_PUBKEY", "hint", ubuntuKeys, "ubuntu-keyring")
	giveKeys(t, key)
	a.publish(t, "noble", packages, time.Now().Add(-time.Hour))
	wantFailure(t, build(), 1, "bootstrap noble", "hint", "an old index")
	a.publish(t, "noble", old, good)
	a.spoil = "InRelease"
	wantFailure(t, build(), 1, "bootstrap noble", "hint", "not signed by a key of "+ubuntuKeys)
	a.spoil = "/main/binary-amd64/Packages"
	wantFailure(t, build(), 1, "bootstrap noble", "hint", "not what its signed index says")
	a.spoil = ""
	a.cut = "/main/binary-amd64/Packages"
	wantFailure(t, build(), 1, "bootstrap noble", "Failed to fetch", "hint", "mirror")
	a.cut = ""
	wantNothingHalfMade(t, root)

	if r := build(); r.code != 0 || !strings.Contains(r.err, "bootstrapping ubuntu noble with mmdebstrap") {
		t.Fatalf("build: status %d\n%s", r.code, r.err)
	}
	wantSources(t, root, a.URL)
	const list = "mos_ubu/rootfs/u/package-lists/more.list"
	write(t, root, list, "lesss # no such package\n", 0o644)
	wantFailure(t, build(), 1, "install packages", "Unable to locate package lesss", "hint", "lesss: the nearest names are less")
	write(t, root, list, "postfix exim4-daemon-light\n", 0o644)
	wantFailure(t, build(), 1, "install packages", "packages that cannot be together", "postfix : Conflicts: mail-transport-agent", "hint")
	// The archive has gone on since the base was made.
	delete(a.files, "/ubuntu/pool/main/tool_1_all.deb")
	a.publish(t, "noble", now, good)
	write(t, root, list, "tool\n", 0o644)
	if r := build(); r.code != 0 {
		t.Errorf("build of a package whose version the base's lists do not have: status %d\n%s", r.code, r.err)
	}
	if got := inImage(t, filepath.Join(root, "data/images/mos_ubu-u.qcow2"), "cat /usr/share/tool"); got != "new" {
		t.Errorf("the image has %q of the archive's package, want new", got)
	}
	remove(t, root, list)
	// A kept package that the disk has damaged is got anew, by the next build at the latest.
	removeAll(t, filepath.Join(root, "data/build/cache/layers"))
	removeAll(t, filepath.Join(root, "data/images"))
	damaged := damageLargest(t, filepath.Join(root, "data/build/cache/downloads/*.deb"))
	if r := build(); r.code != 0 {
		wantFailure(t, r, 1, "hint", "is thrown away")
	}
	if r := build(); r.code != 0 {
		t.Errorf("build after one that found a damaged package: status %d\n%s", r.code, r.err)
	}
	if info, err := os.Stat(damaged); err != nil || info.Size() == 100 {
		t.Errorf("the package is kept damaged: %v", err)
	}
	// What came by https is kept as well.
	handed := a.handed.Load()
	removeAll(t, filepath.Join(root, "data/build/cache/layers"))
	removeAll(t, filepath.Join(root, "data/images"))
	a.Close()
	if r := build("--offline"); r.code != 0 || !strings.Contains(r.err, "mos_ubu-u: built in") || a.handed.Load() != handed {
		t.Errorf("build --offline: status %d, %d packages asked for\n%s", r.code, a.handed.Load()-handed, r.err)
	}
	wantNothingHalfMade(t, root)
}

// damageLargest cuts off the largest file that matches a pattern, and returns its name.
func damageLargest(t *testing.T, pattern string) (largest string) {
	t.Helper()
	var size int64
	for _, file := range names(t, pattern) {
		if info, err := os.Stat(file); err == nil && info.Size() > size {
			largest, size = file, info.Size()
		}
	}
	if err := os.Truncate(largest, 100); err != nil {
		t.Fatal(err)
	}
	return largest
}

// wantSources checks what a guest's own apt would take packages from.
func wantSources(t *testing.T, root, mirror string) {
	t.Helper()
	out := inImage(t, filepath.Join(root, "data/images/mos_ubu-u.qcow2"), "cat /etc/apt/sources.list")
	for _, suite := range []string{"noble", "noble-updates", "noble-security"} {
		if want := "deb [signed-by=" + ubuntuKeys + "] " + mirror + "/ubuntu " + suite + " main universe\n"; !strings.Contains(out, want) {
			t.Errorf("sources.list is\n%swant %s", out, want)
		}
	}
}

// ownKeyrings gives what this goroutine starts a /usr/share/keyrings of its own.
// The thread ends with it.
func ownKeyrings(t *testing.T) {
	t.Helper()
	dir := filepath.Dir(ubuntuKeys)
	keys := map[string][]byte{}
	for _, file := range names(t, dir+"/*") {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		keys[file] = content
	}
	runtime.LockOSThread()
	for _, err := range []error{
		syscall.Unshare(syscall.CLONE_NEWNS),
		syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""),
		syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for file, content := range keys {
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_ = os.Remove(ubuntuKeys)
}

func giveKeys(t *testing.T, keys []byte) {
	t.Helper()
	if err := os.WriteFile(ubuntuKeys, keys, 0o644); err != nil {
		t.Fatal(err)
	}
}
