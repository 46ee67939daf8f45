package tarball_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"meros/internal/proc"
	"meros/internal/tarball"
)

// entry is a file of an archive.
type entry struct {
	tar.Header
	content string
}

func file(name, content string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o6755, Uid: 7}, content}
}

func folder(name string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o1777}, ""}
}

func link(name, to string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}, ""}
}

func archive(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.content))
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
	return b.Bytes()
}

// deb is a package of these files, as deb(5) says.
func deb(t *testing.T, entries ...entry) []byte {
	t.Helper()
	b := bytes.NewBufferString("!<arch>\n")
	for _, member := range []struct {
		name    string
		content []byte
	}{
		{"debian-binary", []byte("2.0\n")},
		{"control.tar", archive(t, file("./control", "Package: x\nVersion: 1\n"))},
		{"data.tar", archive(t, entries...)},
	} {
		fmt.Fprintf(b, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", member.name, 0, 0, 0, 0o100644, len(member.content))
		b.Write(member.content)
		if len(member.content)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func unpack(t *testing.T, deb []byte, root string) error {
	t.Helper()
	if _, err := proc.Find("dpkg-deb"); err != nil {
		t.Skip(err)
	}
	return tarball.Kernel(t.Context(), proc.Host{}, proc.Cmd{Argv: []string{"dpkg-deb"}}, bytes.NewReader(deb), root)
}

func TestKernelTakesNothingElse(t *testing.T) {
	root := t.TempDir()
	err := unpack(t, deb(t,
		folder("./"), folder("./boot/"), file("./boot/vmlinuz-6.1-x", "kernel"), file("./boot/config-6.1-x", "config"), file("./boot/System.map-6.1-x", "map"),
		folder("./usr/"), folder("./usr/lib/"), folder("./usr/lib/modules/"), folder("./usr/lib/modules/6.1-x/"), file("./usr/lib/modules/6.1-x/a.ko", "a"),
		link("./usr/lib/modules/6.1-x/build", "/usr/src/linux"), file("./lib/modules/6.1-x/b.ko", "b"), file("./etc/passwd", "evil"), link("./lib/modules2", "/etc"),
	), root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if owner := info.Sys().(*syscall.Stat_t).Uid; info.Mode() != 0o644 || owner != uint32(os.Geteuid()) {
			t.Errorf("%s has mode %v and owner %d", path, info.Mode(), owner)
		}
		got = append(got, strings.TrimPrefix(path, root+"/"))
		return nil
	})
	want := []string{"boot/config-6.1-x", "boot/vmlinuz-6.1-x", "lib/modules/6.1-x/b.ko", "usr/lib/modules/6.1-x/a.ko"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("unpacked: %q, %v, want %q", got, err, want)
	}
}

func TestKernelRefusesHostilePackages(t *testing.T) {
	outside := t.TempDir()
	for name, data := range map[string][]byte{
		"a name that climbs":       deb(t, file("./lib/modules/../../../evil", "x")),
		"a climbing name unneeded": deb(t, file("../evil", "x")),
		"an absolute name":         deb(t, file(outside+"/evil", "x")),
		"a device":                 deb(t, entry{tar.Header{Name: "lib/modules/6.1/sda", Typeflag: tar.TypeBlock, Devmajor: 8}, ""}),
		"a kernel that is a fifo":  deb(t, entry{tar.Header{Name: "boot/vmlinuz-6.1", Typeflag: tar.TypeFifo}, ""}),
		"a hard link that climbs":  deb(t, entry{tar.Header{Name: "boot/vmlinuz-6.1", Typeflag: tar.TypeLink, Linkname: "../../../../etc/passwd"}, ""}),
		"no package":               []byte("hello"),
		"cut off":                  deb(t, file("boot/vmlinuz-6.1", strings.Repeat("x", 100000)))[:60000],
	} {
		if err := unpack(t, data, t.TempDir()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// Links are left out, so what would go through them does not.
	root := t.TempDir()
	err := unpack(t, deb(t, link("./lib/modules/6.1", outside), file("./lib/modules/6.1/evil", "x"), link("./boot/vmlinuz-6.1", "/etc/passwd")), root)
	if content, _ := os.ReadFile(filepath.Join(root, "lib/modules/6.1/evil")); err != nil || string(content) != "x" {
		t.Errorf("behind a link: %q, %v", content, err)
	}
	if left, _ := os.ReadDir(outside); len(left) != 0 {
		t.Errorf("%s was written outside", left[0].Name())
	}
}
