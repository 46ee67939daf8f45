package session

import (
	"encoding/binary"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

var (
	goodNames = []string{"a", " ", " a b ", "-rf", "--", "...", "é", "日本語", "a\\b", "'\"$`", ".hidden", "~", "*", strings.Repeat("x", 255), "👩‍🚀", "\u202eabc"}
	evilNames = []string{"", ".", "..", "a/b", "/etc", "../x", "a/../..", "a\x00b", "a\nb", "\x1b[31m", "a\tb", "\x7f", "\u0085", "\xff", "a\xc3", strings.Repeat("x", 256), strings.Repeat("é", 128), strings.Repeat("x", 20<<10)}
)

func TestCheckName(t *testing.T) {
	for _, name := range goodNames {
		if err := checkName(name); err != nil {
			t.Errorf("checkName(%q) = %v, want nil", name, err)
		}
	}
	for _, name := range evilNames {
		if checkName(name) == nil {
			t.Errorf("checkName(%.20q) = nil, want an error", name)
		}
		if s := shown(name); strings.IndexFunc(s, unicode.IsControl) >= 0 || len(s) > 5*maxWords {
			t.Errorf("shown(%.20q) = %.40q", name, s)
		}
	}
}

func TestCheckLink(t *testing.T) {
	for _, c := range []struct {
		rel, target string
		ok          bool
	}{
		{"a", "b", true},
		{"a", "./b", true},
		{"d/a", "../b", true},
		{"d/a", "..", true},
		{"d/e/a", "../../x/y", true},
		{"a", "b/c", true},
		{"a", ".", true},
		{"a", " x", true},
		{"a", "b//c/", true},
		{"d/a", ".././b", true},
		{"a", "", false},
		{"a", "/etc/passwd", false},
		{"a", "..", false},
		{"a", "../b", false},
		{"d/a", "../../b", false},
		{"a", "b/../c", false},
		{"d/a", "b/../../c", false},
		{"a", "b\x00", false},
		{"a", "\x1b[2J", false},
		{"a", "\xff", false},
		{"d/a", "./.././..", false},
		{"a", strings.Repeat("x/", 3000), false},
	} {
		if err := checkLink(c.rel, c.target); (err == nil) != c.ok {
			t.Errorf("checkLink(%q, %.20q) = %v, want ok %t", c.rel, c.target, err, c.ok)
		}
	}
}

func FuzzCheckName(f *testing.F) {
	for _, name := range append(goodNames, evilNames...) {
		f.Add(name)
	}
	root, err := os.OpenRoot(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if checkName(name) != nil {
			return
		}
		if path.Base(name) != name || path.Join("d", name) != "d/"+name || !filepath.IsLocal(name) || !utf8.ValidString(name) {
			t.Fatalf("%q passed", name)
		}
		if err := root.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := root.Remove(name); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzCheckLink makes two links that pass in a tree and looks where they lead.
func FuzzCheckLink(f *testing.F) {
	f.Add("..", "l/..")
	f.Add("../..", "k/../..")
	f.Add("e", "../d/k/..")
	f.Fuzz(func(t *testing.T, one, two string) {
		top := t.TempDir()
		deep := filepath.Join(top, "r", "d", "e")
		if err := os.MkdirAll(deep, 0o700); err != nil {
			t.Fatal(err)
		}
		links := map[string]string{"d/k": one, "d/e/l": two}
		for rel, target := range links {
			if checkLink(rel, target) == nil {
				_ = os.Symlink(target, filepath.Join(top, "r", rel))
			}
		}
		for rel := range links {
			if at, err := filepath.EvalSymlinks(filepath.Join(top, "r", rel)); err == nil && !strings.HasPrefix(at+"/", top+"/r/") {
				t.Fatalf("%q, %q: %s leads to %s", one, two, rel, at)
			}
		}
	})
}

func FuzzListed(f *testing.F) {
	b := binary.BigEndian.AppendUint32(nil, 1)
	f.Add(append(b, 'a', 0, 0, 0, 0, 0, 0, 0, 0))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		p := &packet{b: b}
		e := p.listed()
		if len(e.name) > len(b) {
			t.Fatalf("a name of %d bytes out of %d", len(e.name), len(b))
		}
		_ = (&packet{b: b}).status(fxpOpendir).Error()
	})
}
