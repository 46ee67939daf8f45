package rootfs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/proc"
)

// entry is a file of an archive.
type entry struct {
	tar.Header
	content string
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, e := range entries {
		e.Size = int64(len(e.content))
		if e.Mode == 0 {
			e.Mode = 0o755
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, content string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg}, content}
}

func link(name, to string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}, ""}
}

func TestUntarKeepsModesAndLinks(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	setuid := file("bin/su", "x")
	setuid.Mode, setuid.Uid = 0o4711, 7
	err := untar(bytes.NewReader(archive(t,
		entry{tar.Header{Name: "./", Typeflag: tar.TypeDir}, ""}, entry{tar.Header{Name: "./bin/", Typeflag: tar.TypeDir}, ""},
		setuid, link("bin/sh", "/bin/busybox"), entry{tar.Header{Name: "bin/hard", Typeflag: tar.TypeLink, Linkname: "bin/su"}, ""},
	)), root)
	if err != nil {
		t.Fatal(err)
	}
	if st := stat(t, filepath.Join(root, "bin/su")); st.Mode&0o7777 != 0o4711 || st.Uid != 7 || st.Nlink != 2 {
		t.Errorf("bin/su: mode %o, owner %d, %d names", st.Mode&0o7777, st.Uid, st.Nlink)
	}
	if to, err := os.Readlink(filepath.Join(root, "bin/sh")); to != "/bin/busybox" {
		t.Errorf("bin/sh -> %q, %v", to, err)
	}
}

func TestUntarRefusesHostileArchives(t *testing.T) {
	needRoot(t)
	outside := t.TempDir()
	for name, data := range map[string][]byte{
		"a name that climbs":         archive(t, file("../evil", "x")),
		"a name that climbs later":   archive(t, file("a/../../evil", "x")),
		"an absolute name":           archive(t, file(outside+"/evil", "x")),
		"through an absolute link":   archive(t, link("a", outside), file("a/evil", "x")),
		"through a climbing link":    archive(t, link("a", "../../../../../../../.."+outside), file("a/evil", "x")),
		"over a link":                archive(t, link("evil", filepath.Join(outside, "evil")), file("evil", "x")),
		"a hard link that climbs":    archive(t, entry{tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "../../../../etc/passwd"}, ""}),
		"a device":                   archive(t, entry{tar.Header{Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8}, ""}),
		"a fifo":                     archive(t, entry{tar.Header{Name: "f", Typeflag: tar.TypeFifo}, ""}),
		"no gzip":                    []byte("hello"),
		"cut off":                    archive(t, file("a", strings.Repeat("x", 100000)))[:60],
		"a folder that is a link":    archive(t, link("a", outside), entry{tar.Header{Name: "a/evil", Typeflag: tar.TypeDir}, ""}),
		"a mode through a link":      archive(t, link("a", outside), entry{tar.Header{Name: "a", Typeflag: tar.TypeDir, Mode: 0o777}, ""}),
		"more than it says it holds": append(archive(t, file("a", "x")), 1, 2, 3),
	} {
		root := t.TempDir()
		err := untar(bytes.NewReader(data), root)
		if left, _ := os.ReadDir(outside); len(left) != 0 {
			t.Fatalf("%s: %s was written outside", name, left[0].Name())
		}
		if err == nil && name != "more than it says it holds" {
			t.Errorf("%s: no error", name)
		}
	}
	if st := stat(t, outside); st.Mode&0o777 == 0o777 {
		t.Error("a mode was changed through a link")
	}
}

func FuzzUntar(f *testing.F) {
	f.Add(archive(f, file("a", "x"), link("b", "/etc"), file("b/passwd", "x")))
	outside := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = untar(bytes.NewReader(data), t.TempDir())
		if left, _ := os.ReadDir(outside); len(left) != 0 {
			t.Errorf("%s was written outside", left[0].Name())
		}
	})
}

func TestParseReleases(t *testing.T) {
	sum := strings.Repeat("a", 64)
	good := "---\n-\n  title: \"Standard\"\n  flavor: alpine-standard\n  file: alpine-standard-3.20.3-x86_64.iso\n  sha256: " + sum +
		"\n-\n  flavor: alpine-minirootfs\n  file: alpine-minirootfs-3.20.3-x86_64.tar.gz\n  sha256: " + sum + "\n"
	got, err := parseReleases([]byte(good))
	if err != nil || got.File != "alpine-minirootfs-3.20.3-x86_64.tar.gz" || got.SHA256 != sum {
		t.Errorf("parseReleases = %+v, %v", got, err)
	}
	for name, bad := range map[string]string{
		"empty": "", "no list": "a: b", "no minirootfs": "- flavor: x", "html": "<html>",
		"a path":  strings.ReplaceAll(good, "alpine-minirootfs-3.20.3", "../../etc/alpine-minirootfs-3.20.3"),
		"no hash": strings.ReplaceAll(good, sum, "abc"),
	} {
		if _, err := parseReleases([]byte(bad)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzParseReleases(f *testing.F) {
	f.Add([]byte("- flavor: alpine-minirootfs\n  file: x\n"))
	f.Fuzz(func(t *testing.T, index []byte) {
		if found, err := parseReleases(index); err == nil && strings.ContainsAny(found.File, "/ \n") {
			t.Errorf("accepted the file %q", found.File)
		}
	})
}

// Every way in which a mirror may fail ends with an error that names it, and
// leaves nothing in the tree.
func TestAlpineMirrorsThatLie(t *testing.T) {
	mini := archive(t, file("etc-file", "x"))
	index := func(sum string) string {
		return "- flavor: alpine-minirootfs\n  file: alpine-minirootfs-3.20.3-x86_64.tar.gz\n  sha256: " + sum + "\n"
	}
	wrong := strings.Repeat("0", 64)
	mux := http.NewServeMux()
	serve := func(branch, yaml string, body func(http.ResponseWriter, *http.Request)) {
		mux.HandleFunc("/"+branch+"/releases/x86_64/latest-releases.yaml", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, yaml) })
		mux.HandleFunc("/"+branch+"/releases/x86_64/alpine-minirootfs-3.20.3-x86_64.tar.gz", body)
	}
	all := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(mini) }
	serve("tampered", index(wrong), all)
	serve("missing", index(wrong), http.NotFound)
	serve("truncated", index(wrong), func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100000")
		_, _ = w.Write(mini[:10])
	})
	serve("elsewhere", index(wrong), func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
	})
	serve("garbage", "<html>", all)
	mux.HandleFunc("/circle/", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) })
	mirror := httptest.NewServer(mux)
	defer mirror.Close()
	for branch, want := range map[string]string{
		"tampered": "its sha256 is", "missing": "404", "truncated": "EOF", "elsewhere": "file:", "garbage": "latest-releases.yaml",
		"circle": "without end", "nowhere": "404",
	} {
		root, out := t.TempDir(), t.TempDir()
		err := alpineBootstrap(context.Background(), nil, root, AlpineBootstrap{Mirror: mirror.URL, Branch: branch, Arch: "x86_64", Out: out})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "bootstrap alpine "+branch) {
			t.Errorf("%s: %v, want an error with %q", branch, err, want)
		}
		for _, dir := range []string{root, out} {
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("%s: %s is left", branch, left[0].Name())
			}
		}
	}
}

// apkAlone is an apk that lays a kernel's package, with a trigger that makes an
// initrd of what mkinitfs.conf says.
type apkAlone struct{ root string }

// Run implements proc.Runner.
func (a apkAlone) Run(context.Context, proc.Cmd) error {
	conf := filepath.Join(a.root, alpineInitrdConf)
	features, err := os.ReadFile(conf)
	return errors.Join(err,
		os.WriteFile(conf+".apk-new", []byte("the package's own"), 0o644),
		os.MkdirAll(filepath.Join(a.root, "lib/modules/6.6-virt"), 0o755),
		os.WriteFile(filepath.Join(a.root, "boot/vmlinuz-virt"), nil, 0o644),
		os.WriteFile(filepath.Join(a.root, "boot/initramfs-virt"), features, 0o644))
}

func TestAlpineInitrdIsSmall(t *testing.T) {
	root, out := t.TempDir(), t.TempDir()
	lay(t, root, "etc/apk/", "boot/")
	c := &chroot{tree: tree{root}, r: apkAlone{root}, unmount: func() error { return nil }}
	if err := (AlpineInstall{Branch: "edge", Kernel: alpineKernel, Out: out}).run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	initrd, err := os.ReadFile(filepath.Join(out, InitrdFile))
	if err != nil || !strings.Contains(string(initrd), "\nfeatures=\"ata base ext4 scsi virtio\"\n") {
		t.Errorf("the initrd was made of %q, %v", initrd, err)
	}
	if c.has(alpineInitrdConf + ".apk-new") {
		t.Error("the package's own configuration was left beside")
	}
	// A target without a kernel has no use for it.
	bare := t.TempDir()
	lay(t, bare, "etc/apk/")
	c = &chroot{tree: tree{bare}, r: apkAlone{root}, unmount: func() error { return nil }}
	if err := (AlpineInstall{Branch: "edge", Out: out}).run(t.Context(), c); err != nil || c.has("etc/mkinitfs") {
		t.Errorf("without a kernel: %v", err)
	}
}

// A base is kept for longer than latest-stable is the release that it was made of.
func TestAlpinePackagesAreOfTheBasesRelease(t *testing.T) {
	for branch, want := range map[string]string{"latest-stable": "v3.20", "v3.19": "v3.19", "edge": "edge"} {
		root := t.TempDir()
		lay(t, root, "etc/apk/", "etc/alpine-release")
		if err := os.WriteFile(filepath.Join(root, "etc/alpine-release"), []byte("3.20.3\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		c := &chroot{tree: tree{root}, unmount: func() error { return nil }}
		if _, err := (AlpineInstall{Mirror: "http://m.example", Branch: branch}).repositories(c); err != nil {
			t.Fatal(err)
		}
		content, err := c.read(apkRepositories)
		if want := "http://m.example/" + want + "/main\nhttp://m.example/" + want + "/community\n"; string(content) != want || err != nil {
			t.Errorf("%s: repositories %q, %v, want %q", branch, content, err, want)
		}
	}
}
