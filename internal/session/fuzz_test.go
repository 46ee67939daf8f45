package session

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func FuzzParseHashes(f *testing.F) {
	sum := strings.Repeat("0f", 32)
	f.Add(sum + "  ./name\n\\" + sum + "  ./two\\nlines\n" + sum + " *\n")
	f.Fuzz(func(t *testing.T, out string) {
		for name, sum := range parseHashes(out) {
			if !strings.Contains(strings.ToLower(out), hex.EncodeToString(sum[:])) || len(name) > len(out) {
				t.Errorf("%q has a sum that was not told", name)
			}
		}
	})
}

func FuzzLister(f *testing.F) {
	packet := func(kind byte, body []byte) []byte {
		return append(append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+1)), kind), body...)
	}
	hello := packet(fxpVersion, []byte{0, 0, 0, 3})
	handle := packet(fxpHandle, []byte{0, 0, 0, 1, 0, 0, 0, 1, 'h'})
	f.Add(append(append(hello, handle...), packet(fxpName, namesPacket(2, 1, "x"))...))
	f.Add(append(append(hello, handle...), packet(fxpStatus, []byte{0, 0, 0, 2, 0, 0, 0, 1})...))
	f.Fuzz(func(t *testing.T, says []byte) {
		for _, call := range []func(*lister) error{
			func(l *lister) error { _, err := l.lstat(fxpLstat, "x"); return err },
			func(l *lister) error { _, err := l.readlink("x"); return err },
			func(l *lister) error {
				shown := 0
				err := l.list("x", func(e listed) error { shown += len(e.name) + 1; return nil })
				if shown > len(says) {
					t.Errorf("%d bytes of names in %d", shown, len(says))
				}
				return err
			},
		} {
			l := &lister{w: io.Discard, r: bufio.NewReader(bytes.NewReader(says))}
			if l.hello() == nil {
				_ = call(l)
			}
		}
	})
}

// Whatever is written in whatever pieces, the file is what was written.
func FuzzSparseWriter(f *testing.F) {
	f.Add([]byte{0, 255, 0, 1, 64, 0}, uint16(0))
	f.Add([]byte{200, 0, 0, 0, 3}, uint16(4095))
	f.Fuzz(func(t *testing.T, pieces []byte, from uint16) {
		file, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		before := bytes.Repeat([]byte("x"), int(from))
		if _, err := file.Write(before); err != nil {
			t.Fatal(err)
		}
		w := &sparseWriter{f: file, at: int64(from), end: int64(from)}
		all := before
		for i, b := range pieces[:min(len(pieces), 64)] { // an even byte is so many zeros
			piece := make([]byte, int(b)*97)
			if b%2 == 1 && len(piece) > 0 {
				piece[i*7919%len(piece)] = b
			}
			all = append(all, piece...)
			if n, err := w.Write(piece); n != len(piece) || err != nil {
				t.Fatalf("Write = %d, %v", n, err)
			}
		}
		if err := w.finish(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(file.Name()); err != nil || !bytes.Equal(got, all) {
			t.Errorf("%d bytes are in the file, %v, and %d were written", len(got), err, len(all))
		}
	})
}

func FuzzOneLine(f *testing.F) {
	f.Add("\x1b[2J\r\n\u202e" + strings.Repeat("\xff", 400))
	f.Fuzz(func(t *testing.T, s string) {
		got := oneLine(s)
		unfit := func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }
		if strings.IndexFunc(got, unfit) >= 0 || !utf8.ValidString(got) || len(got) > 6*maxWords+8 {
			t.Errorf("oneLine(%q) = %q", s, got)
		}
	})
}
