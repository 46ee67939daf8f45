package lifecycle

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/family"
	"meros/internal/image"
	"meros/internal/proc"
	"meros/internal/virt/virttest"
)

func newImportBench(t *testing.T) (*bench, func(file string, o ImportOptions) error) {
	t.Helper()
	b := newBench(t, testURI, map[string]string{"libvirt/box.xml": virttest.Domain})
	f, err := family.Load(b.Paths, b.family)
	if err != nil {
		t.Fatal(err)
	}
	return b, func(file string, o ImportOptions) error { return b.Import(t.Context(), f.Targets[0], file, o) }
}

func qemuImg(t *testing.T, args ...string) string {
	t.Helper()
	var out strings.Builder
	if err := (proc.Host{}).Run(t.Context(), proc.Cmd{Argv: append([]string{"qemu-img"}, args...), Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// qemuIO does one act with the bytes of a disk.
func qemuIO(t *testing.T, disk, act string) string {
	t.Helper()
	var out strings.Builder
	if err := (proc.Host{}).Run(t.Context(), proc.Cmd{Argv: []string{"qemu-io", "-f", "qcow2", "-c", act, disk}, Stdout: &out}); err != nil {
		t.Fatalf("%s: %v\n%s", act, err, &out)
	}
	return out.String()
}

func writeFile(t *testing.T, name string, content []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// iso is as much of one as is looked at.
func iso() []byte {
	content := make([]byte, 64<<10)
	copy(content[0x8001:], "CD001")
	return content
}

func ova(t *testing.T, disk string) string {
	t.Helper()
	content, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, data := range map[string][]byte{"../../victim.ovf": []byte("<Envelope/>"), "../../disk.vmdk": content} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Format: tar.FormatUSTAR}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return writeFile(t, "victim.ova", b.Bytes())
}

func TestImport(t *testing.T) {
	b, bring := newImportBench(t)
	place := b.Paths.Image(b.family + "-box")
	raw := writeFile(t, "raw", virttest.Guest())
	files := map[string]string{"raw": raw}
	for _, format := range []string{"qcow2", "vmdk", "vdi", "vhdx"} {
		files[format] = filepath.Join(t.TempDir(), "x."+format)
		qemuImg(t, "convert", "-f", "raw", "-O", format, raw, files[format])
	}
	stream := filepath.Join(t.TempDir(), "x.vmdk")
	qemuImg(t, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, stream)
	files["ova"] = ova(t, stream)
	for format, file := range files {
		before := hashOf(t, file)
		if err := bring(file, ImportOptions{Replace: true}); err != nil {
			t.Errorf("%s: %v", format, err)
			continue
		}
		if hashOf(t, file) != before {
			t.Errorf("%s: the original has changed", format)
		}
		back := filepath.Join(t.TempDir(), "back")
		qemuImg(t, "convert", "-f", "qcow2", "-O", "raw", place, back)
		if content, err := os.ReadFile(back); err != nil || !bytes.HasPrefix(content, virttest.Guest()[:1024]) {
			t.Errorf("%s: another content: %v", format, err)
		}
	}
	b.wantError(bring(raw, ImportOptions{}), "there is an image already", "--replace")
	if err := bring(writeFile(t, "x", iso()), ImportOptions{}); err != nil || hashOf(t, b.Paths.CDROM(b.family+"-box")) != hashOf(t, writeFile(t, "y", iso())) {
		t.Errorf("iso: %v", err)
	}
	b.wantNothingPartial()
}

func (b *bench) wantNothingPartial() {
	b.t.Helper()
	if left, _ := filepath.Glob(filepath.Join(b.Paths.Images(), "*"+partial)); len(left) > 0 {
		b.t.Errorf("left half-made: %q", left)
	}
}

func TestImportRefuses(t *testing.T) {
	b, bring := newImportBench(t)
	raw := writeFile(t, "raw", virttest.Guest())
	qcow2 := func(change func([]byte)) string {
		file := filepath.Join(t.TempDir(), "x")
		qemuImg(t, "convert", "-f", "raw", "-O", "qcow2", raw, file)
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		change(content)
		return writeFile(t, "bad.qcow2", content)
	}
	overlay, external, vmdk := filepath.Join(t.TempDir(), "o"), filepath.Join(t.TempDir(), "e"), filepath.Join(t.TempDir(), "v")
	qemuImg(t, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", raw, overlay)
	qemuImg(t, "create", "-q", "-f", "qcow2", "-o", "data_file="+filepath.Join(t.TempDir(), "data"), external, "1M")
	qemuImg(t, "create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", vmdk, "1M")
	parent := []byte("KDMV" + strings.Repeat("\x00", 2048))
	binary.LittleEndian.PutUint64(parent[12:], 2048)
	binary.LittleEndian.PutUint64(parent[28:], 1)
	copy(parent[512:], "# Disk DescriptorFile\nparentFileNameHint=\"/etc/shadow\"\n")
	for file, want := range map[string]string{
		overlay:                        "a backing file",
		external:                       "its data in another file",
		vmdk:                           "names other files",
		writeFile(t, "p.vmdk", parent): "a backing file",
		writeFile(t, "l.vmdk", []byte("KDMV"+strings.Repeat("\x00", 1024))): "a list of other files",
		writeFile(t, "empty", nil):                     "is empty",
		writeFile(t, "words", []byte("words")):         "--format raw",
		writeFile(t, "short.qcow2", []byte("QFI\xfb")): "not a whole qcow2 image",
		t.TempDir():                        "no regular file",
		filepath.Join(t.TempDir(), "none"): "no such file",
		qcow2(func(c []byte) { binary.BigEndian.PutUint64(c[24:], 1<<60) }):  "image",
		qcow2(func(c []byte) { binary.BigEndian.PutUint64(c[24:], 32<<40) }): "image",
		qcow2(func(c []byte) { binary.BigEndian.PutUint32(c[4:], 9) }):       "version 9",
		qcow2(func(c []byte) { c[79] |= 2 }):                                 "corrupt",
		ova(t, overlay):                                                      "a backing file",
		ova(t, writeFile(t, "z", nil)):                                       "is empty",
	} {
		b.wantError(bring(file, ImportOptions{}), "import "+b.family+"-box", want)
	}
	b.wantError(bring(raw, ImportOptions{Format: image.VDI}), "is no vdi image")
	if err := bring(overlay, ImportOptions{Format: image.Raw}); err != nil {
		t.Errorf("as raw, the words of a header mean nothing: %v", err)
	}
	b.wantNothingPartial()

	// What cannot be looked at may be in use: it is not replaced.
	place := b.Paths.Image(b.family + "-box")
	if err := errors.Join(os.Remove(place), os.Symlink(filepath.Base(place), place)); err != nil {
		t.Fatal(err)
	}
	b.wantError(bring(raw, ImportOptions{Replace: true}), "too many levels of symbolic links")

	built := newBench(t, testURI, pair())
	f, err := family.Load(built.Paths, built.family)
	if err != nil {
		t.Fatal(err)
	}
	built.wantError(built.Import(t.Context(), f.Target("a"), raw, ImportOptions{}), "is built by the recipe")
}

// What is brought runs: a disk, and a CD-ROM beside it or alone.
func TestQEMUImported(t *testing.T) {
	b := newDiskBench(t)
	id := b.family + "-box"
	if err := os.WriteFile(b.Paths.CDROM(id), iso(), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, image := range []bool{true, false} {
		if !image {
			if err := os.Remove(b.Paths.Image(id)); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.init(t.Context(), InitOptions{Disposable: true}); err != nil {
			t.Fatalf("with a disk %v: %v\n%s", image, err, b.said)
		}
		_, dom, err := b.Running(t.Context(), id)
		if err != nil || !dom.Opens(b.Paths.CDROM(id)) || dom.Opens(b.Paths.Overlay(id)) != image {
			t.Errorf("with a disk %v: %v\n%s", image, err, dom.XML)
		}
		b.cleanUp()
		b.wantNoOverlay()
	}
}
