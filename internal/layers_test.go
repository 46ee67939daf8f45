package internal_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layers says what each package may import beside the standard library: names
// without a dot are packages below internal/, the others are modules. Nothing
// points up, and no engine sees another.
var layers = map[string]string{
	// Leaves: no knowledge of families.
	"hint":          "",
	"layout":        "hint github.com/google/renameio github.com/gofrs/flock",
	"proc":          "golang.org/x/sys",
	"proc/proctest": "proc",
	"sandbox":       "hint proc golang.org/x/sys",
	"capture":       "golang.org/x/sys",
	"prober":        "golang.org/x/sys",
	"stall":         "",
	"tarball":       "proc",
	"mirror":        "stall golang.org/x/sys",
	"store":         "layout proc golang.org/x/sys",
	"device":        "hint store golang.org/x/sys",
	"ui":            "golang.org/x/term github.com/vbauerster/mpb",
	"ui/uitest":     "golang.org/x/sys",
	// The model.
	"family": "hint layout",
	"graph":  "family layout",
	"lint":   "family layout",
	// Engines: one outside tool or protocol each.
	"rootfs":              "device family hint layout mirror proc sandbox stall store tarball ui golang.org/x/sys github.com/cyphar/filepath-securejoin go.yaml.in/yaml",
	"image":               "device family hint layout proc sandbox ui golang.org/x/sys",
	"kernel":              "family hint layout proc sandbox stall store tarball ui golang.org/x/sys",
	"virt":                "family hint layout proc sandbox ui golang.org/x/sys github.com/digitalocean/go-libvirt github.com/beevik/etree",
	"virt/virttest":       "",
	"netfilter":           "family hint layout proc ui capture prober golang.org/x/sys",
	"session":             "family hint layout proc sandbox ui golang.org/x/sys golang.org/x/term golang.org/x/crypto github.com/pkg/sftp github.com/vbauerster/mpb",
	"session/sessiontest": "proc golang.org/x/crypto github.com/pkg/sftp",
	// What joins them.
	"lifecycle": "device family hint layout proc sandbox store mirror ui rootfs image kernel virt netfilter session capture prober golang.org/x/sys",
	"cmd/meros": "family hint layout proc prober sandbox store ui rootfs image kernel virt netfilter session graph lifecycle lint github.com/spf13/cobra golang.org/x/term",
}

// testOnly is what tests may import on top.
const testOnly = "proc/proctest virt/virttest session/sessiontest ui/uitest github.com/google/go-cmp github.com/rogpeppe/go-internal"

func TestLayers(t *testing.T) {
	for _, dir := range []string{"../internal", "../cmd"} {
		err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && d.Name() == "testdata" {
				return fs.SkipDir
			}
			if err == nil && !d.IsDir() && strings.HasSuffix(file, ".go") {
				checkImports(t, file)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func checkImports(t *testing.T, file string) {
	pkg := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(file)), "../")
	pkg = strings.TrimPrefix(pkg, "internal/")
	allowed, known := layers[pkg]
	isTest := strings.HasSuffix(file, "_test.go")
	if !known && pkg != "internal" {
		t.Errorf("%s: package %s is not in the table of layers", file, pkg)
		return
	}
	if isTest {
		allowed += " " + testOnly + " " + pkg
	}
	src, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if os.IsNotExist(err) {
		return // removed while we looked
	}
	if err != nil {
		t.Error(err)
		return
	}
	for _, spec := range src.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		if path == "os/exec" && pkg != "proc" && !isTest {
			t.Errorf("%s imports os/exec; only internal/proc may: hand in a proc.Runner", file)
		}
		if !importAllowed(path, strings.Fields(allowed), pkg) {
			t.Errorf("%s: %s may not import %s", file, pkg, path)
		}
	}
}

// importAllowed holds for the standard library, for packages of meros that are
// listed, and for all packages of listed modules.
func importAllowed(path string, allowed []string, pkg string) bool {
	if name, ours := strings.CutPrefix(path, "meros/"); ours {
		name = strings.TrimPrefix(name, "internal/")
		return slices.Contains(allowed, name) || name == "conf" && pkg == "cmd/meros" // conf: the embedded families
	}
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".") || slices.ContainsFunc(allowed, func(module string) bool {
		return path == module || strings.HasPrefix(path, module+"/")
	})
}

// shells are the files whose scripts run in a guest, over SSH, with what is not ours
// as arguments. On the host nothing runs a shell.
var shells = []string{"internal/session/", "internal/lifecycle/sender.go"}

func TestNoShell(t *testing.T) {
	for _, dir := range []string{"../internal", "../cmd"} {
		err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
			name := strings.TrimPrefix(filepath.ToSlash(file), "../")
			if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return err
			}
			if slices.ContainsFunc(shells, func(s string) bool { return strings.HasPrefix(name, s) }) {
				return nil
			}
			src, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(src, func(n ast.Node) bool {
				if list, ok := n.(*ast.CompositeLit); ok && runsShell(list.Elts) {
					t.Errorf("%s runs a shell: hand in an argument vector", name)
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// runsShell reports whether a list holds a shell and, next to it, -c.
func runsShell(list []ast.Expr) bool {
	word := func(e ast.Expr) string {
		if l, ok := e.(*ast.BasicLit); ok {
			s, _ := strconv.Unquote(l.Value)
			return s
		}
		return ""
	}
	for i := range len(list) - 1 {
		if strings.HasSuffix(word(list[i]), "sh") && strings.HasPrefix(word(list[i+1]), "-") && strings.HasSuffix(word(list[i+1]), "c") {
			return true
		}
	}
	return false
}
