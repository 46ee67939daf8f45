package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// keyName is the name of a test repository's key, as apk finds it in /etc/apk/keys.
const keyName = "meros-test.rsa.pub"

// apkRepo is a mirror of Alpine in a folder: the real minirootfs, and packages
// and a signed index that the test makes.
type apkRepo struct {
	dir string // the mirror
	key *rsa.PrivateKey
}

// minirootfs is the real archive, which lies beside the project where its
// machines have it.
func minirootfs(t *testing.T) string {
	t.Helper()
	found := names(t, "../../../shared/alpine/v3.20/releases/x86_64/alpine-minirootfs-*.tar.gz")
	if len(found) == 0 {
		t.Skip("needs Alpine's minirootfs in ../shared/alpine")
	}
	return found[0]
}

func newAPKRepo(t *testing.T) *apkRepo {
	t.Helper()
	content, err := os.ReadFile(minirootfs(t))
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	r := &apkRepo{dir: t.TempDir(), key: key}
	const name = "alpine-minirootfs-3.20.3-x86_64.tar.gz"
	sum := sha256.Sum256(content)
	r.write(t, "v3.20/releases/x86_64/"+name, content)
	r.write(t, "v3.20/releases/x86_64/latest-releases.yaml", []byte(fmt.Sprintf(
		"---\n-\n  branch: v3.20\n  flavor: alpine-minirootfs\n  file: %s\n  sha256: %x\n", name, sum)))
	return r
}

func (r *apkRepo) write(t *testing.T, name string, content []byte) {
	t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// publicKey is what a recipe puts into /etc/apk/keys.
func (r *apkRepo) publicKey(t *testing.T) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&r.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// packed writes a gzip'd tar; without an end it can be followed by another, as
// apk's segments are.
func packed(t *testing.T, end bool, fill func(*tar.Writer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	err := fill(w)
	if err == nil && end {
		err = w.Close()
	}
	if err == nil && !end {
		err = w.Flush()
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func oneFile(name string, content []byte) func(*tar.Writer) error {
	return func(w *tar.Writer) error {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			return err
		}
		_, err := w.Write(content)
		return err
	}
}

// add makes a package of the files below a folder.
func (r *apkRepo) add(t *testing.T, repository, name, folder string) {
	t.Helper()
	data := packed(t, true, func(w *tar.Writer) error { return addFiles(w, folder) })
	sum := sha256.Sum256(data)
	info := fmt.Sprintf("pkgname = %s\npkgver = 1.0-r0\npkgdesc = made by a test\narch = x86_64\nsize = %d\nlicense = none\ndatahash = %s\n",
		name, len(data), hex.EncodeToString(sum[:]))
	control := packed(t, false, oneFile(".PKGINFO", []byte(info)))
	r.write(t, "v3.20/"+repository+"/x86_64/"+name+"-1.0-r0.apk", append(control, data...))
}

// addFiles adds a folder's files, each with the checksum that apk wants.
func addFiles(w *tar.Writer, folder string) error {
	return filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == folder {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return w.WriteHeader(&tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755})
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		h := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), Format: tar.FormatPAX}
		h.PAXRecords = map[string]string{"APK-TOOLS.checksum.SHA1": fmt.Sprintf("%x", sha1.Sum(content))}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
}

// index makes the signed index of a repository, with the minirootfs's own apk.
func (r *apkRepo) index(t *testing.T, repository string) {
	t.Helper()
	folder := filepath.Join(r.dir, "v3.20", repository, "x86_64")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if out, err := exec.Command("tar", "-C", root, "-xzf", minirootfs(t)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.CopyFS(filepath.Join(root, "repo"), os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
	argv := []string{root, "/sbin/apk", "index", "--quiet", "--allow-untrusted", "-o", "/repo/APKINDEX.unsigned"}
	for _, file := range names(t, filepath.Join(root, "repo/*.apk")) {
		argv = append(argv, "/repo/"+filepath.Base(file))
	}
	if out, err := exec.Command("chroot", argv...).CombinedOutput(); err != nil {
		t.Fatalf("apk index: %v: %s", err, out)
	}
	unsigned, err := os.ReadFile(filepath.Join(root, "repo/APKINDEX.unsigned"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(unsigned)
	signature, err := rsa.SignPKCS1v15(rand.Reader, r.key, crypto.SHA1, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signed := append(packed(t, false, oneFile(".SIGN.RSA."+keyName, signature)), unsigned...)
	r.write(t, "v3.20/"+repository+"/x86_64/APKINDEX.tar.gz", signed)
}

// stage lays files for a package: name to content, run bit for all.
func stage(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, fs.FileMode(0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
