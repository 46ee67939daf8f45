package netfilter

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"meros/internal/family"
	"meros/internal/layout"
)

var update = flag.Bool("update", false, "rewrite the *.want.nft files")

// testMAC is an address that tells its target, as virt.MAC does not.
func testMAC(fullID string, iface int) string {
	_, target, _ := strings.Cut(fullID, "-")
	return "52:54:00:00:" + map[string]string{"a": "0a", "b": "0b", "c": "0c", "fw": "0f", "guest": "0e"}[target] + ":0" + string(rune('0'+iface))
}

// load reads the family of a case below testdata, or one that ships.
func load(t *testing.T, name string) *family.Family {
	t.Helper()
	root := "testdata"
	if strings.HasPrefix(name, "mos_") {
		root = "../.."
	}
	f, err := family.Load(layout.Paths{Root: root}, name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestCompile(t *testing.T) {
	cases, err := family.List(layout.Paths{Root: "testdata"})
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, name := range append(cases, "mos_lab") {
		set, err := Compile(load(t, name), Host{}, testMAC)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		file := filepath.Join("testdata", name+".want.nft")
		if *update {
			if err := os.WriteFile(file, []byte(set.Text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), set.Text); diff != "" {
			t.Errorf("%s: Compile differs (-want +got):\n%s", name, diff)
		}
	}
}

// What a guest can have logged is bounded, or it could fill the host's disk.
func TestLogIsLimited(t *testing.T) {
	for _, name := range []string{"via", "pair"} {
		set, err := Compile(load(t, name), Host{}, testMAC)
		if err != nil {
			t.Fatal(err)
		}
		logs := 0
		for line := range strings.Lines(set.Text) {
			if strings.Contains(line, " log ") {
				logs++
				if !strings.Contains(line, "limit rate 5/second burst 10 packets log prefix") {
					t.Errorf("%s: a line logs without a limit: %s", name, line)
				}
			}
		}
		if logs == 0 {
			t.Errorf("%s: nothing is logged", name)
		}
	}
}
