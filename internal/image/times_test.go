package image_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meros/internal/image"
	"meros/internal/proc"
)

// scattered makes the same files in an order of its own, all with one time.
func scattered(t *testing.T, mtime time.Time) string {
	t.Helper()
	root := t.TempDir()
	var files []string
	for i := range 600 {
		files = append(files, fmt.Sprintf("dir-%d/file-%d", i%7, i))
	}
	rand.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	for _, name := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.Repeat([]byte(name), 1000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, time.Now(), mtime)
	})
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func pack(t *testing.T, root string, o image.Options) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "x.qcow2")
	if err := image.Pack(t.Context(), proc.Host{}, root, out, o); err != nil {
		t.Fatal(err)
	}
	if err := image.Check(t.Context(), proc.Host{}, out, io.Discard); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// Trees that are the same to their files' last change make the same image to the
// last byte, whenever and in whichever order they were made.
func TestPackOfEqualTreesIsTheSame(t *testing.T) {
	needTools(t)
	mtime := time.Unix(1_600_000_000, 123456789)
	o := image.Options{Name: "t", FreeMB: 300, UUIDs: image.UUIDsOf("t"), Epoch: 1_577_836_800}
	first, second := pack(t, scattered(t, mtime), o), pack(t, scattered(t, mtime), o)
	if !bytes.Equal(first, second) {
		for i := range min(len(first), len(second)) {
			if first[i] != second[i] {
				t.Fatalf("two images of equal trees differ from byte %d of %d on", i, len(first))
			}
		}
		t.Errorf("two images of equal trees have %d and %d bytes", len(first), len(second))
	}
}

// A folder keeps the size that it had when it was full.
func TestPackAfterNamesAreGoneIsTheSame(t *testing.T) {
	needTools(t)
	mtime := time.Unix(1_600_000_000, 0)
	o := image.Options{Name: "t", FreeMB: 10, UUIDs: image.UUIDsOf("t"), Epoch: 1}
	var images [2][]byte
	for i := range images {
		root := t.TempDir()
		for k := range 5000 * i {
			write(t, filepath.Join(root, fmt.Sprintf("%s-%d", strings.Repeat("n", 200), k)), "")
		}
		gone, err := filepath.Glob(filepath.Join(root, "*"))
		for _, path := range gone {
			err = errors.Join(err, os.Remove(path))
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(root, mtime, mtime); err != nil {
			t.Fatal(err)
		}
		images[i] = pack(t, root, o)
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Errorf("two images of one empty tree have %d and %d bytes, or differ", len(images[0]), len(images[1]))
	}
}

func TestLatestClampsTimes(t *testing.T) {
	needTools(t)
	for latest, want := range map[int64]string{
		0:             "mtime: 0x5f5e1000",
		1_700_000_000: "mtime: 0x5f5e1000",
		1_500_000_000: "mtime: 0x59682f00:00000000",
		5_000_000_000: "mtime: 0x5f5e1000", // a year that 32 bits do not hold
	} {
		root := t.TempDir()
		path := filepath.Join(root, "file")
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Unix(1_600_000_000, 0)); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "x.qcow2")
		o := image.Options{Name: "t", FreeMB: 10, UUIDs: image.UUIDsOf("t"), Epoch: 1, Latest: latest}
		if err := image.Pack(t.Context(), proc.Host{}, root, out, o); err != nil {
			t.Fatal(err)
		}
		got := dump(t, out, "stat /file")
		for _, name := range []string{"ctime", "atime", "mtime", "crtime"} {
			if line := strings.Replace(want, "mtime", name, 1); !strings.Contains(got, line) {
				t.Errorf("latest %d: want %q in\n%s", latest, line, got)
			}
		}
	}
}

func TestCompressKeepsTheDisk(t *testing.T) {
	needTools(t)
	dir := t.TempDir()
	root := scattered(t, time.Unix(1_600_000_000, 0))
	o := image.Options{Name: "t", FreeMB: 50, UUIDs: image.UUIDsOf("t"), Epoch: 1}
	var images [2][]byte
	for i := range images {
		out := filepath.Join(dir, fmt.Sprintf("%d.qcow2", i))
		if err := image.Pack(t.Context(), proc.Host{}, root, out, o); err != nil {
			t.Fatal(err)
		}
		plain, err := os.Stat(out)
		if err != nil {
			t.Fatal(err)
		}
		if err := image.Compress(t.Context(), proc.Host{}, out); err != nil {
			t.Fatal(err)
		}
		wantOwnersOnly(t, out)
		if images[i], err = os.ReadFile(out); err != nil || int64(len(images[i])) > plain.Size()/2 {
			t.Errorf("%d bytes of %d are left, %v, want less than half", len(images[i]), plain.Size(), err)
		}
		if got := dump(t, out, "stat /dir-1/file-1"); !strings.Contains(got, "Type: regular") {
			t.Errorf("the compressed image holds\n%s", got)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two compressed images of one disk differ")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*"+image.CompressSuffix)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	broken := filepath.Join(dir, "broken.qcow2")
	if err := os.WriteFile(broken, []byte("no image"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := image.Compress(t.Context(), proc.Host{}, broken); err == nil || !strings.Contains(err.Error(), "compress the image") {
		t.Errorf("Compress of no image = %v", err)
	}
}
