package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type member struct {
	name, content string
	size          int64 // that it claims; 0: its content's
}

func packOVA(t *testing.T, members ...member) Source {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		if m.size == 0 {
			m.size = int64(len(m.content))
		}
		if err := w.WriteHeader(&tar.Header{Name: m.name, Mode: 0o644, Size: m.size}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(m.content)); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.Close() // one that claims more than it has cannot be closed
	file := filepath.Join(t.TempDir(), "a.ova")
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return Source{File: file, Format: OVA, Bytes: int64(b.Len())}
}

func TestUnpackChecksTheManifest(t *testing.T) {
	ovf, disk := member{name: "v.ovf", content: "<Envelope/>"}, member{name: "v-disk1.vmdk", content: "KDMV and so on"}
	line256 := func(m member) string {
		return fmt.Sprintf("SHA256(%s)= %x\n", m.name, sha256.Sum256([]byte(m.content)))
	}
	line1 := fmt.Sprintf("SHA1 (%s) = %X\r\n", disk.name, sha1.Sum([]byte(disk.content)))
	mf := func(text string) member { return member{name: "v.mf", content: text} }
	for name, c := range map[string]struct {
		members []member
		checked bool
		fault   string
	}{
		"no manifest":        {[]member{ovf, disk}, false, ""},
		"in front":           {[]member{ovf, mf(line256(ovf) + line256(disk)), disk}, true, ""},
		"behind, SHA1":       {[]member{ovf, disk, mf(line1)}, true, ""},
		"two disks":          {[]member{ovf, disk, {name: "b.vmdk", content: "b"}, mf(line256(disk))}, true, ""},
		"damaged disk":       {[]member{ovf, {name: disk.name, content: "KDMV and so forth"}, mf(line256(disk))}, false, "is not what its manifest says"},
		"damaged words":      {[]member{{name: ovf.name, content: "<E/>"}, disk, mf(line256(ovf) + line256(disk))}, false, `"v.ovf" is not what`},
		"disk not in it":     {[]member{ovf, disk, mf(line256(ovf))}, false, "does not name its disk"},
		"names what is not":  {[]member{disk, mf(line256(ovf) + line256(disk))}, false, `"v.ovf", which its manifest names, is not in it`},
		"an empty manifest":  {[]member{ovf, disk, mf("")}, false, ""},
		"no lines":           {[]member{ovf, disk, mf("MD5(x)= 00\n")}, false, "a line that is none"},
		"larger than itself": {[]member{ovf, {name: "d.vmdk", size: 1 << 40}}, false, "larger than the whole file"},
		"no disk":            {[]member{ovf}, false, "no disk in it"},
	} {
		out := filepath.Join(t.TempDir(), "out")
		got, err := Unpack(t.Context(), packOVA(t, c.members...), out)
		if c.fault == "" && name != "an empty manifest" {
			if content, _ := os.ReadFile(out); err != nil || got.Checked != c.checked || string(content) != disk.content {
				t.Errorf("%s: %+v, %v, %q", name, got, err, content)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: error %v, want %q", name, err, c.fault)
		}
	}
	many := make([]member, maxMembers+1)
	for i := range many {
		many[i].name = fmt.Sprint(i)
	}
	if _, err := Unpack(t.Context(), packOVA(t, many...), filepath.Join(t.TempDir(), "out")); err == nil || !strings.Contains(err.Error(), "more than 256 files") {
		t.Errorf("many files: %v", err)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte("SHA256(disk.vmdk)= " + strings.Repeat("a", 64) + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		wanted, err := readManifest(text)
		if err != nil {
			return
		}
		for file, kinds := range wanted {
			for kind, sum := range kinds {
				if file == "" || len(sum) < 40 || kind == "" {
					t.Errorf("%q %q %q", file, kind, sum)
				}
			}
		}
	})
}
