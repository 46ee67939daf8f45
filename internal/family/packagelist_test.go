package family_test

import (
	"slices"
	"strings"
	"testing"

	"meros/internal/family"
)

func TestPackageLists(t *testing.T) {
	paths := recipe(t, map[string]string{
		"build/box.xml":                           "<target>\n<packages>less</packages>\n</target>\n",
		"build/web.xml":                           boxFile,
		"package-lists/base.list":                 "# for all\nless  vim-tiny # an editor\n\ncurl\n",
		"rootfs/common/package-lists/common.list": "tmux",
		"rootfs/box/package-lists/box.list":       "nginx\n",
		"rootfs/box/package-lists/.hidden.list":   "no such name!",
		"rootfs/box/package-lists/edited.list~":   "no such name!",
	})
	f, err := family.Load(paths, "mos_demo")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"box": {"less", "vim-tiny", "curl", "tmux", "nginx"},
		"web": {"less", "vim-tiny", "curl", "tmux"},
	} {
		if got := f.Target(name).Packages; !slices.Equal(got, want) {
			t.Errorf("packages of %s = %v, want %v", name, got, want)
		}
	}
}

func TestPackageListFaults(t *testing.T) {
	paths := recipe(t, map[string]string{
		"build/box.xml":                     boxFile,
		"package-lists/base.list":           "less\nvim=2:9 ok --force\n",
		"rootfs/box/package-lists/box.list": "\x00\xff\n",
		"rootfs/box/package-lists/box.lst":  "less\n",
		"rootfs/bax/package-lists/a.list":   "less\n",
	})
	_, err := family.Load(paths, "mos_demo")
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`package-lists/base.list:2: must be the name of a Debian package, without version or suite, got "vim=2:9"`,
		`package-lists/base.list:2: must be the name of a Debian package, without version or suite, got "--force"`,
		`rootfs/box/package-lists/box.list:1: must be the name of a Debian package`,
		"rootfs/box/package-lists/box.lst: is no list of packages",
		`rootfs/bax: there is no target "bax": the nearest known is box`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the faults lack %q:\n%v", want, err)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"less", "lsof", "vim", "vim-tiny", "python3", "nginx", "nginx-light", "loss", "less"}
	for word, want := range map[string][]string{
		"lesss": {"less", "loss"}, "pyhton3": {"python3"}, "ngnx": {"nginx"}, "somethingelse": {}, "": {},
		strings.Repeat("a", 1000): nil,
	} {
		if got := family.Nearest(word, known, 3); !slices.Equal(got, want) {
			t.Errorf("Nearest(%q) = %v, want %v", word, got, want)
		}
	}
}
