package family_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/layout"
)

var update = flag.Bool("update", false, "rewrite the want.txt files")

// TestLoad reads the one family below each testdata/<case> and compares the
// recipe, or its faults and hints, with want.txt.
func TestLoad(t *testing.T) {
	dirs, err := filepath.Glob("testdata/*/conf")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, dir := range dirs {
		root, err := filepath.Abs(filepath.Dir(dir))
		if err != nil {
			t.Fatal(err)
		}
		t.Run(filepath.Base(root), func(t *testing.T) {
			got := load(t, layout.Paths{Root: root})
			if failed := strings.HasPrefix(got, "{"); failed == strings.HasPrefix(filepath.Base(root), "faults-") {
				t.Errorf("the case is named for another result than:\n%s", got)
			}
			golden(t, filepath.Join(root, "want.txt"), got)
		})
	}
}

func load(t *testing.T, paths layout.Paths) string {
	t.Helper()
	names, err := family.List(paths)
	if err != nil || len(names) != 1 {
		t.Fatalf("List = %v, %v, want one family", names, err)
	}
	f, err := family.Load(paths, names[0])
	if err != nil {
		if _, ok := errors.AsType[family.Faults](err); !ok {
			t.Errorf("Load gave a %T, want Faults", err)
		}
		return err.Error() + "\n" + strings.Join(append([]string{""}, hint.Of(err)...), "\nhint: ") + "\n"
	}
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), paths.Root, "ROOT") + "\n"
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("Load differs (-want +got):\n%s", diff)
	}
}

// recipe writes a family mos_demo with these files and returns its root. A name
// that ends in * has the run bit.
func recipe(t *testing.T, files map[string]string) layout.Paths {
	t.Helper()
	paths := layout.Paths{Root: t.TempDir()}
	for name, content := range files {
		mode := os.FileMode(0o644)
		if strings.HasSuffix(name, "*") {
			mode = 0o755
		}
		path := filepath.Join(paths.Family("mos_demo"), strings.TrimSuffix(name, "*"))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	return paths
}

const boxFile = "<target>\n</target>\n"

func TestNamesThatAreNone(t *testing.T) {
	paths := recipe(t, map[string]string{"build/box.xml": boxFile})
	for _, name := range []string{"", ".", "..", "a/b", "a b", "Mos", "mos_demo ", "1-a", "\x1b", strings.Repeat("a", 200)} {
		if _, err := family.Load(paths, name); !errors.Is(err, family.ErrBadName) {
			t.Errorf("Load(%q) = %v, want ErrBadName", name, err)
		}
		if _, _, err := family.LoadTarget(paths, name); !errors.Is(err, family.ErrBadName) {
			t.Errorf("LoadTarget(%q) = %v, want ErrBadName", name, err)
		}
	}
}

func TestNotFoundNamesTheNearestAndAll(t *testing.T) {
	paths := recipe(t, map[string]string{"build/box.xml": boxFile, "build/web.xml": boxFile})
	if err := os.Mkdir(paths.Family("other"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := family.Load(paths, "mos_dmeo")
	want := "there is no family mos_dmeo; the nearest name is mos_demo; there are: mos_demo, other"
	if !errors.Is(err, family.ErrNotFound) || err.Error() != want {
		t.Errorf("Load = %v, want ErrNotFound: %s", err, want)
	}
	_, _, err = family.LoadTarget(paths, "mos_demo-bxo")
	want = "there is no target mos_demo-bxo; the nearest name is mos_demo-box; there are: mos_demo-box, mos_demo-web"
	if !errors.Is(err, family.ErrNotFound) || err.Error() != want {
		t.Errorf("LoadTarget = %v, want ErrNotFound: %s", err, want)
	}
	_, err = family.Load(layout.Paths{Root: t.TempDir()}, "mos_demo")
	if want := "there is no family mos_demo; there are none at all"; err == nil || err.Error() != want {
		t.Errorf("Load = %v, want %s", err, want)
	}
}

func TestLoadTarget(t *testing.T) {
	paths := recipe(t, map[string]string{"build/my-box.xml": boxFile})
	f, box, err := family.LoadTarget(paths, "mos_demo-my-box")
	if err != nil || box.FullID() != "mos_demo-my-box" || f.Target("my-box") != box {
		t.Errorf("LoadTarget = %v, %v, %v", f, box, err)
	}
	if box.HasSession() {
		t.Error("HasSession = true for a target without user and address")
	}
}

func TestListTakesFoldersWithGoodNames(t *testing.T) {
	paths := recipe(t, map[string]string{"build/box.xml": boxFile, "../README": "x", "../Bad/x": "x", "../.git/x": "x", "../a/x": "x"})
	if err := os.Symlink("mos_demo", paths.Family("linked")); err != nil {
		t.Fatal(err)
	}
	got, err := family.List(paths)
	if diff := cmp.Diff([]string{"a", "linked", "mos_demo"}, got); diff != "" || err != nil {
		t.Errorf("List: %v (-want +got):\n%s", err, diff)
	}
	if _, err := family.Load(paths, "linked"); err != nil {
		t.Errorf("Load of a family that is a link = %v", err)
	}
}

func TestFaultsAreSortedByFileThenLine(t *testing.T) {
	paths := recipe(t, map[string]string{
		"build/b.xml": "<target a='1'>\n<x/></target>", "build/a.xml": "<target>\n\n<size free_space_mb='-1'/><y/></target>",
	})
	_, err := family.Load(paths, "mos_demo")
	faults, _ := errors.AsType[family.Faults](err)
	var got []string
	for _, f := range faults {
		got = append(got, filepath.Base(f.File)+" "+f.Where)
	}
	want := []string{"a.xml target", "a.xml size: free_space_mb", "b.xml target", "b.xml target"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
	line := `conf/target/mos_demo/build/a.xml:3: size: free_space_mb: must be > 0, got "-1"`
	if !strings.Contains(err.Error(), line+"\n") {
		t.Errorf("Error() = %s\nlacks %s", err, line)
	}
}

func TestOneFilesFaultsAreBounded(t *testing.T) {
	paths := recipe(t, map[string]string{"build/b.xml": "<target>" + strings.Repeat("<x/>", 10000) + "</target>"})
	_, err := family.Load(paths, "mos_demo")
	faults, _ := errors.AsType[family.Faults](err)
	if len(faults) != 50 || !strings.HasPrefix(faults[49].Text, "more faults follow") {
		t.Errorf("%d faults, want 50 that end by saying so", len(faults))
	}
}

func TestShippedFamiliesHaveNoFault(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	names, err := family.List(layout.Paths{Root: root})
	if err != nil || len(names) == 0 {
		t.Fatalf("List = %v, %v, want families", names, err)
	}
	// mos_demo is built in minutes; the others' guests have the kernel that meros
	// makes lean and hard.
	modes := map[string]family.KernelMode{"mos_demo": family.KernelDistro, "mos_sec": family.KernelSource, "mos_lab": family.KernelSource}
	for _, name := range names {
		f, err := family.Load(layout.Paths{Root: root}, name)
		if err != nil {
			t.Errorf("Load(%s):\n%v", name, err)
			continue
		}
		for _, target := range f.Targets {
			if want, known := modes[name]; known && target.BuildFile != "" && target.Kernel != want {
				t.Errorf("%s boots a kernel of %s, want %s", target.FullID(), target.Kernel, want)
			}
		}
	}
}

func TestPasswordOfAMirrorIsNotRepeated(t *testing.T) {
	paths := recipe(t, map[string]string{"build/box.xml": `<target><build mirror="ftp://me:secret@x/ y"/></target>`})
	_, err := family.Load(paths, "mos_demo")
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("Load = %v, want a fault without the password", err)
	}
}
