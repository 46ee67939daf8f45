package session

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// entry is one of an archive that a guest makes up.
type entry struct {
	tar.Header
	content string
}

func tarOf(entries ...entry) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.Typeflag == 0 {
			e.Typeflag = tar.TypeReg
		}
		if e.Size == 0 {
			e.Size = int64(len(e.content))
		}
		e.Mode, e.Format = 0o7777, tar.FormatGNU
		if e.Typeflag != tar.TypeReg {
			e.Size = 0
		}
		_ = w.WriteHeader(&e.Header)
		_, _ = io.WriteString(w, e.content)
	}
	_ = w.Flush()
	return append(b.Bytes(), make([]byte, 1024)...)
}

func file(name, content string) entry { return entry{tar.Header{Name: name}, content} }

// special is an entry of that kind in place of a file.
func special(kind byte, target string) []byte {
	return tarOf(entry{tar.Header{Name: "./f00", Typeflag: kind, Linkname: target}, ""}, file("./f01", "archive"))
}

// sparse is an entry in GNU's old form of a file with holes: of that many bytes, of which
// the archive holds none.
func sparse(name string, size string) []byte {
	block := make([]byte, 512)
	copy(block, name)
	copy(block[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00")
	block[156] = 'S'
	copy(block[257:], "ustar  \x00")
	copy(block[386:], size+"\x00"+"00000000000\x00") // one part, empty, at the end
	copy(block[483:], size+"\x00")
	sum := 8 * int(' ')
	for i, b := range block {
		if i < 148 || i >= 156 {
			sum += int(b)
		}
	}
	copy(block[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(block, make([]byte, 1024)...)
}

// endlessly repeats itself.
type endlessly []byte

func (e endlessly) Read(p []byte) (int, error) {
	for n := 0; ; {
		m := copy(p[n:], e)
		if n += m; n == len(p) {
			return n, nil
		}
	}
}

// What comes in an archive is a guest's as what comes by SFTP is, which gets whatever an
// archive does not bring.
func TestPullArchiveOfALiar(t *testing.T) {
	outside := t.TempDir()
	from := func(b []byte) io.Reader { return bytes.NewReader(b) }
	mark := []byte(packMark)
	for name, c := range map[string]struct {
		says    io.Reader
		archive int    // how many files come from it
		first   string // what f00 is; "": as the others
		err     string
	}{
		"honest":         {says: from(append(mark, tarOf(file("./f00", "archive"), file("f01", "archive"))...)), archive: 2},
		"no mark":        {says: from(tarOf(file("./f00", "archive")))},
		"nothing":        {says: from(nil)},
		"mark alone":     {says: from(mark)},
		"rubbish":        {says: io.MultiReader(from(mark), io.LimitReader(endlessly("rubbish"), 1<<20))},
		"above":          {says: from(append(mark, tarOf(file("../x", "archive"), file("a/../../x", "archive"), file("./f01", "archive"))...)), archive: 1},
		"absolute":       {says: from(append(mark, tarOf(file(outside+"/x", "archive"), file("/f02", "archive"), file("./f01", "archive"))...)), archive: 1},
		"unasked":        {says: from(append(mark, tarOf(file("g", "archive"), file("f00/x", "archive"), file("./f01", "archive"))...)), archive: 1},
		"twice":          {says: from(append(mark, tarOf(file("f00", "archive"), file("./f00", "another"), file(".//f00", "another"))...)), archive: 1},
		"a link":         {says: from(append(mark, special(tar.TypeSymlink, outside)...)), archive: 1},
		"a hard link":    {says: from(append(mark, special(tar.TypeLink, "/etc/passwd")...)), archive: 1},
		"a pipe":         {says: from(append(mark, special(tar.TypeFifo, "")...)), archive: 1},
		"a device":       {says: from(append(mark, special(tar.TypeChar, "")...)), archive: 1},
		"a block device": {says: from(append(mark, special(tar.TypeBlock, "")...)), archive: 1},
		"a folder":       {says: from(append(mark, special(tar.TypeDir, "")...)), archive: 1},
		"shorter":        {says: from(append(mark, tarOf(file("f00", "arc"), file("f01", "archive"))...))},
		"longer":         {says: from(append(mark, tarOf(file("f00", "archive that grew"), file("f01", "archive"))...)), archive: 2, first: "archive that grew"},
		"cut off":        {says: from(append(mark, tarOf(file("f01", "archive"), file("f00", "archive"))[:512+512+512+3]...)), archive: 1},
		"holes":          {says: from(append(mark, sparse("f00", "00000000007")...)), archive: 1, first: strings.Repeat("\x00", 7)},
		"huge holes":     {says: from(append(mark, sparse("f00", "\x80\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00")...)), err: "more than 1.0 MiB"},
		"endless": {
			says: io.MultiReader(from(append(mark, tarOf(entry{tar.Header{Name: "f00", Size: 1 << 40}, ""})[:512]...)), endlessly("x")),
			err:  "more than 1.0 MiB",
		},
		"endless, unasked":   {says: io.MultiReader(from(mark), endlessly(tarOf(file("g", "archive"))[:1024]))},
		"a name without end": {says: io.MultiReader(from(append(mark, tarOf(entry{tar.Header{Name: "././@LongLink", Size: 1 << 40}, ""})[:512]...)), endlessly("x"))},
	} {
		t.Run(name, func(t *testing.T) {
			var list []fs.FileInfo
			for i := range 20 {
				list = append(list, lie{fmt.Sprintf("f%02d", i), 0o644, 7})
			}
			g := lying(t, &liar{list: only(list...)})
			g.shell = func(ch ssh.Channel, _ chan event) {
				go func() { _, _ = io.Copy(io.Discard, ch) }()
				_, _ = io.Copy(ch, c.says)
				sendStatus(ch, 0)
			}
			var err error
			within(t, 30*time.Second, "pull", func() {
				_, err = Pull(t.Context(), g.dial(), g.paths, quiet(), PullOptions{MaxSize: 1 << 20})
			})
			dest := g.paths.Shared("mos_demo-box")
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				if left, _ := os.ReadDir(filepath.Dir(dest)); len(left) > 0 {
					t.Errorf("%v is left", left)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			archived := 0
			for i, e := range names(t, dest) {
				info, err := os.Lstat(e)
				content, readErr := os.ReadFile(e)
				if err := errors.Join(err, readErr); err != nil || info.Mode() != 0o644 {
					t.Errorf("%s: %v, %v", e, info, err)
				}
				switch got := string(content); {
				case i == 0 && c.first != "" && got == c.first, got == "archive":
					archived++
				case got != "content":
					t.Errorf("%s = %.40q", e, got)
				}
			}
			want(t, "entries, from the archive", []int{len(names(t, dest)), archived}, []int{20, c.archive})
			onlyChild(t, filepath.Dir(dest), "mos_demo-box")
			wantEmpty(t, outside)
		})
	}
}

// newPuller makes one for a folder of its own.
func newPuller(t *testing.T, limit int64) *puller {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	p := &puller{root: root, streams: quiet(), options: PullOptions{MaxSize: limit}}
	p.left.Store(limit)
	return p
}

func FuzzUnpack(f *testing.F) {
	f.Add(tarOf(file("a", "content"), file("b", ""), file("../a", "x")))
	f.Add(special(tar.TypeSymlink, "/"))
	f.Add(sparse("a", "00000000100"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		const limit = 64 << 10
		p := newPuller(t, limit)
		wanted := map[string]remote{"a": {rel: "a", size: 7, perm: 0o644}, "b": {rel: "b", size: 0, perm: 0o644}}
		_ = p.unpack(context.Background(), io.MultiReader(strings.NewReader(packMark), bytes.NewReader(archive)), wanted)
		there, err := os.ReadDir(p.root.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range there {
			info, err := e.Info()
			if err != nil || !info.Mode().IsRegular() || e.Name() != "a" && e.Name() != "b" || info.Size() > limit {
				t.Errorf("there is %v, %v", info, err)
			}
		}
	})
}
