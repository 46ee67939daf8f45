package lifecycle

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"meros/internal/family"
	"meros/internal/image"
	"meros/internal/proc"
)

// TestInfoFormIsDocumented finds fields of the versioned forms that
// docs/running.md does not name.
func TestInfoFormIsDocumented(t *testing.T) {
	content, err := os.ReadFile("../../docs/running.md")
	if err != nil {
		t.Fatal(err)
	}
	var walk func(kind reflect.Type)
	walk = func(kind reflect.Type) {
		for kind.Kind() == reflect.Slice || kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		if kind.Kind() != reflect.Struct || kind.PkgPath() == "time" {
			return
		}
		for i := range kind.NumField() {
			name, _, _ := strings.Cut(kind.Field(i).Tag.Get("json"), ",")
			if !strings.Contains(string(content), "`"+name+"`") && !strings.Contains(string(content), "."+name+"`") {
				t.Errorf("%s.%s: docs/running.md does not name %q", kind.Name(), kind.Field(i).Name, name)
			}
			walk(kind.Field(i).Type)
		}
	}
	walk(reflect.TypeFor[Info]())
	walk(reflect.TypeFor[Event]())
}

// An image with another kernel than the recipe's, as build --kernel makes it, is not
// older than the recipe; a build with that kernel would make it again.
func TestInfoOfAnotherKernel(t *testing.T) {
	files := pair()
	files["build/a.xml"] = `<target><build kernel="source" rootfs="yes" distro="alpine" mirror="http://127.0.0.1:1/alpine"/></target>`
	b := newBench(t, testURI, files)
	f, err := family.Load(b.Paths, b.family)
	if err != nil {
		t.Fatal(err)
	}
	packaged := *f.Target("a")
	packaged.Kernel = family.KernelDistro
	w, err := Builder{Streams: b.Streams, Runner: b.Runner, Paths: b.Paths}.newWork(t.Context(), &packaged)
	if err != nil {
		t.Fatal(err)
	}
	id := packaged.FullID()
	for _, file := range []string{b.Paths.Image(id), b.Paths.Kernel(id), b.Paths.Initrd(id)} {
		if err := b.Paths.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := func(key string, built family.KernelMode, recipe, recipeKernel string) {
		t.Helper()
		if err := writeRecord(b.Paths, id, ImageRecord{Key: key, Kernel: built}); err != nil {
			t.Fatal(err)
		}
		info, err := b.Info(t.Context(), b.family)
		if err != nil {
			t.Fatal(err)
		}
		got := info.Families[0].Targets[0]
		if got.Kernel != string(built) || got.RecipeKernel != recipeKernel || got.Image.Recipe != recipe {
			t.Errorf("built with %s: kernel %q, of the recipe %q, image %q; want %q, %q", built, got.Kernel, got.RecipeKernel, got.Image.Recipe, recipeKernel, recipe)
		}
	}
	want(string(w.key), family.KernelDistro, RecipeSame, "source")
	want("older", family.KernelDistro, RecipeChanged, "source")
	want(string(w.key), family.KernelSource, RecipeChanged, "")
}

func TestInfoInDepth(t *testing.T) {
	files := pair()
	files["netfilter/policy.xml"] = `<policy>
		<port target="a" network="net" addr="10.251.0.2"/><port target="b" network="net" addr="10.251.0.3"/>
		<allow from="a" to="b" proto="tcp" ports="80 8000-8080"/><allow from="host" to="a" proto="tcp" ports="22"/></policy>`
	files["libvirt/net.xml"] = `<network><bridge name="@F@"/><ip address="10.251.0.1" prefix="24"/></network>`
	b := newBench(t, testURI, files)
	disk := b.Paths.Image(b.family + "-b")
	if err := b.Paths.MkdirAll(filepath.Dir(disk), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := b.Runner.Run(t.Context(), proc.Cmd{Argv: []string{"qemu-img", "create", "-q", "-f", "qcow2", disk, "3M"}}); err != nil {
		t.Fatal(err)
	}
	info, err := b.Info(t.Context(), b.family)
	if err != nil {
		t.Fatal(err)
	}
	f := info.Families[0]
	if want := []string{"a → b: tcp 80, 8000-8080", "host → a: tcp 22"}; !f.Policy || !slices.Equal(f.Targets[0].Policy, want) {
		t.Errorf("the policy of a is %v %q, want %q", f.Policy, f.Targets[0].Policy, want)
	}
	if i := f.Targets[1].Image; i == nil || i.Disk != 3<<20 || i.Recipe != RecipeUnknown {
		t.Errorf("the image of b is %+v", i)
	}
	if _, err := image.DiskBytes(b.Paths.Family(b.family) + "/libvirt/a.xml"); err == nil {
		t.Error("a document is taken for an image")
	}
}
