package image

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// header is the first sector of an image, with what is set in it.
func header(magic string, set func([]byte)) []byte {
	h := make([]byte, 1024)
	copy(h, magic)
	set(h)
	return h
}

// FuzzHeader reads headers that anybody may have made: none that names another file
// passes.
func FuzzHeader(f *testing.F) {
	f.Add([]byte("QFI\xfb"))
	f.Add(header("QFI\xfb", func(h []byte) { h[7] = 3 }))
	f.Add(header("QFI\xfb", func(h []byte) { h[7], h[15] = 2, 1 }))
	f.Add(header("QFI\xfb", func(h []byte) { h[7], h[79] = 3, featureExternalData }))
	f.Add(header("KDMV", func(h []byte) {
		binary.LittleEndian.PutUint64(h[12:], 2048)
		binary.LittleEndian.PutUint64(h[28:], 1)
		copy(h[512:], `parentFileNameHint="/etc/shadow"`)
	}))
	f.Add(header("# Disk DescriptorFile", func([]byte) {}))
	f.Fuzz(func(t *testing.T, content []byte) {
		name := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		format, err := formatOf(file, int64(len(content)), "")
		if err != nil || refuseReferences(file, format) != nil {
			return
		}
		if format == Qcow2 && (binary.BigEndian.Uint64(content[8:]) != 0 || content[7] >= 3 && content[79]&featureExternalData != 0) {
			t.Errorf("a qcow2 that names another file passes: %q", content[:104])
		}
		if format == VMDK && binary.LittleEndian.Uint64(content[12:]) == 0 {
			t.Errorf("a vmdk that is a list passes: %q", content[:512])
		}
	})
}

// FuzzUnpack unpacks archives that anybody may have made: all that is written is the
// one file that was asked for, and it is no larger than what it came from.
func FuzzUnpack(f *testing.F) {
	archive := func(members ...tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, m := range members {
			m.Mode = 0o644
			if err := w.WriteHeader(&m); err != nil {
				f.Fatal(err)
			}
			if _, err := w.Write(make([]byte, m.Size)); err != nil {
				f.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	f.Add([]byte("ustar"))
	f.Add(archive(tar.Header{Name: "x.ovf", Size: 3}, tar.Header{Name: "x.vmdk", Size: 600}, tar.Header{Name: "x.mf", Size: 10}))
	f.Add(archive(tar.Header{Name: "../../x.vmdk", Size: 5}, tar.Header{Name: "/x.img", Size: 5}))
	f.Add(archive(tar.Header{Name: "x.vmdk", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, tar.Header{Name: "y.vmdk", Typeflag: tar.TypeLink, Linkname: "../in"}))
	f.Fuzz(func(t *testing.T, content []byte) {
		top := t.TempDir()
		dir := filepath.Join(top, "a", "b")
		in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(in, content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = Unpack(t.Context(), Source{File: in, Bytes: int64(len(content))}, out)
		if info, err := os.Lstat(out); err == nil && (!info.Mode().IsRegular() || info.Size() > int64(len(content))) {
			t.Errorf("it made %v of %d bytes, from %d", info.Mode(), info.Size(), len(content))
		}
		for _, pattern := range []string{top + "/*", top + "/a/*", dir + "/*"} {
			found, _ := filepath.Glob(pattern)
			for _, name := range found {
				if name != filepath.Join(top, "a") && name != dir && name != in && name != out {
					t.Errorf("it made %s", name)
				}
			}
		}
	})
}
