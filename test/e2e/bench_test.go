//go:build kernel

package e2e

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// way is one way to boot: an image, and changes of the libvirt document.
type way struct {
	name  string
	image string // of images below
	edits []string
}

// ways are compared by TestBenchBoot. The first is what the others are held
// against. An edit is "old => new", in box.xml.
var ways = []way{
	{"distribution's kernel and initrd, default units", "distro", nil},
	{"meros's kernel, default units", "source", nil},
	{"distribution's kernel and initrd, sshd first", "distro-fast", nil},
	{"meros's kernel, sshd first", "source-fast", nil},
	{"… with mitigations=off", "source-fast", []string{" quiet<=> quiet mitigations=off<"}},
	{"… without quiet", "source-fast", []string{" quiet<=><"}},
	{"… on machine pc", "source-fast", []string{`machine="q35"=>machine="pc"`}},
	{"… on cpu qemu64", "source-fast", []string{`<cpu mode="maximum" />=><cpu mode="custom"><model>qemu64</model></cpu>`}},
	{"… with 1 processor", "source-fast", []string{"<vcpu>2</vcpu>=><vcpu>1</vcpu>"}},
}

// TestBenchBoot measures, interleaved, how long a guest takes from the start of
// its domain to an accepted session. MEROS_BENCH_BOOT is the number of rounds.
func TestBenchBoot(t *testing.T) {
	rounds, _ := strconv.Atoi(os.Getenv("MEROS_BENCH_BOOT"))
	if rounds < 1 {
		t.Skip("needs MEROS_BENCH_BOOT, the number of rounds, as make bench-boot sets it")
	}
	needKernel(t)
	root := kernelRoot(t)
	t.Cleanup(func() { meros(t, root, "shutdown", "--force") })
	kernelFamily(t, root)
	mustRun(t, root, "kernel-build", "--source", "distro")
	keepKernel(t, root)
	images := bootImages(t, root)
	chosen := slices.DeleteFunc(slices.Clone(ways), func(w way) bool {
		only := os.Getenv("MEROS_BENCH_ONLY")
		return only != "" && !regexp.MustCompile(only).MatchString(w.name)
	})
	took := map[string][]float64{}
	for round := range rounds {
		for _, w := range chosen {
			s := boot(t, root, images, w)
			took[w.name] = append(took[w.name], s)
			t.Logf("round %d: %5.1f s  %s", round+1, s, w.name)
		}
	}
	report(t, chosen, took)
}

// bootImages builds the images to compare and returns the folder with a folder
// for each. The fast ones are mos_demo's with testdata/fastboot laid over them.
func bootImages(t *testing.T, root string) string {
	t.Helper()
	dir := filepath.Join(root, "data/bench")
	for _, speed := range []string{"", "-fast"} {
		for _, kernel := range []string{"distro", "source"} {
			mustRun(t, root, "build", "mos_kern", "--kernel", kernel)
			copyImage(t, filepath.Join(root, "data/images"), filepath.Join(dir, kernel+speed))
		}
		if speed == "" {
			if err := os.CopyFS(filepath.Join(root, "conf/target/mos_kern"), os.DirFS("testdata/fastboot")); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func copyImage(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{".qcow2", ".vmlinuz", ".initrd", ".json"} {
		content, err := os.ReadFile(filepath.Join(from, kern+suffix))
		if os.IsNotExist(err) {
			_ = os.Remove(filepath.Join(to, kern+suffix))
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, kern+suffix), content, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

var readyAfter = regexp.MustCompile(kern + `: ready after (\S+)`)

// boot boots a fresh copy of the way's image and returns the seconds to a session.
func boot(t *testing.T, root, images string, w way) float64 {
	t.Helper()
	copyImage(t, filepath.Join(images, w.image), filepath.Join(root, "data/images"))
	for _, edit := range w.edits {
		old, now, _ := strings.Cut(edit, "=>")
		replaceIn(t, root, "mos_kern/libvirt/box.xml", old, now)
		defer replaceIn(t, root, "mos_kern/libvirt/box.xml", now, old)
	}
	r := mustRun(t, root, "init", "mos_kern")
	defer mustRun(t, root, "shutdown", "--force", "mos_kern")
	found := readyAfter.FindStringSubmatch(r.err)
	if found == nil {
		t.Fatalf("init says nothing of how long it took:\n%s", r.err)
	}
	d, err := time.ParseDuration(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return d.Seconds()
}

func report(t *testing.T, ways []way, took map[string][]float64) {
	base := median(took[ways[0].name])
	lines := []string{"", "| boot, domain start to session | median s | min | × |", "|---|---|---|---|"}
	for _, w := range ways {
		m := median(took[w.name])
		lines = append(lines, fmt.Sprintf("| %s | %.1f | %.1f | %.2f |", w.name, m, slices.Min(took[w.name]), m/base))
	}
	t.Log(strings.Join(lines, "\n"))
}

func median(values []float64) float64 {
	sorted := slices.SortedFunc(slices.Values(values), cmp.Compare)
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}
