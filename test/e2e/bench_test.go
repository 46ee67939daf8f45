//go:build kernel

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// way is one way to boot: a kernel, and a change of the libvirt document.
type way struct {
	name   string
	kernel string // source or distro
	edits  []string
}

// defaultUnits boots mos_demo's image as if early-init were not in it.
const defaultUnits = "loglevel=6<=>loglevel=6 init=/sbin/init.distrib<"

// ways are compared by TestBenchBoot. The first is what the others are held
// against. An edit is "old=>new", in box.xml. All boot the same root file system.
var ways = []way{
	{"distribution's kernel and initrd, default units", "distro", []string{defaultUnits}},
	{"meros's kernel, default units", "source", []string{defaultUnits}},
	{"meros's kernel, early-init", "source", nil},
	{"… with mitigations=off", "source", []string{"loglevel=6<=>loglevel=6 mitigations=off<"}},
	{"… with quiet", "source", []string{"loglevel=6<=>quiet<"}},
	{"… with init_on_alloc=0", "source", []string{"loglevel=6<=>loglevel=6 init_on_alloc=0<"}},
	{"… on machine pc", "source", []string{`machine="q35"=>machine="pc"`}},
	{"… on cpu qemu64", "source", []string{`<cpu mode="maximum" />=><cpu mode="custom"><model>qemu64</model></cpu>`}},
	{"… with 1 processor", "source", []string{"<vcpu>2</vcpu>=><vcpu>1</vcpu>"}},
}

// bootTime is how long a guest took, in seconds.
type bootTime struct {
	banner  float64 // from the start of its domain to its sshd's first line
	session float64 // to a session that was accepted, as init says
	cpu     float64 // of the host's processors, until its sshd's first line
}

// TestBenchBoot measures, interleaved, how long a guest takes from the start of
// its domain to sshd's banner and to a session. MEROS_BENCH_BOOT is the number of
// rounds.
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
	took := map[string][]bootTime{}
	for round := range rounds {
		for _, w := range chosen {
			b := boot(t, root, images, w)
			took[w.name] = append(took[w.name], b)
			t.Logf("round %d: banner %5.1f s, %5.1f s of processors, session %5.1f s  %s", round+1, b.banner, b.cpu, b.session, w.name)
		}
	}
	report(t, chosen, took)
}

// bootImages builds mos_kern's image with each kernel and returns the folder with a
// folder for each.
func bootImages(t *testing.T, root string) string {
	t.Helper()
	dir := filepath.Join(root, "data/bench")
	for _, kernel := range []string{"distro", "source"} {
		mustRun(t, root, "build", "mos_kern", "--kernel", kernel)
		copyImage(t, filepath.Join(root, "data/images"), filepath.Join(dir, kernel))
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

// boot boots a fresh copy of the way's image.
func boot(t *testing.T, root, images string, w way) bootTime {
	t.Helper()
	copyImage(t, filepath.Join(images, w.kernel), filepath.Join(root, "data/images"))
	for _, edit := range w.edits {
		old, now, _ := strings.Cut(edit, "=>")
		replaceIn(t, root, "mos_kern/libvirt/box.xml", old, now)
		defer replaceIn(t, root, "mos_kern/libvirt/box.xml", now, old)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	banner := make(chan bootTime, 1)
	go func() { banner <- awaitBanner(ctx) }()
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
	b := <-banner
	b.session = d.Seconds()
	return b
}

// awaitBanner waits until the sshd of the guest says what it is.
func awaitBanner(ctx context.Context) bootTime {
	for ctx.Err() == nil {
		if speaksSSH(ctx, "10.63.7.2:2022") {
			return timesOf(kern)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return bootTime{}
}

func speaksSSH(ctx context.Context, addr string) bool {
	c, err := (&net.Dialer{Timeout: 250 * time.Millisecond}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	first := make([]byte, 4)
	_, err = io.ReadFull(c, first)
	return err == nil && string(first) == "SSH-"
}

// ticks are the clock ticks in a second that proc_pid_stat(5) counts in.
const ticks = 100

// timesOf returns for how long the process of a guest has run, and what it has
// used of the processors.
func timesOf(guest string) bootTime {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		line, _ := os.ReadFile(file)
		if !strings.Contains(string(line), "-name\x00guest="+guest+",") {
			continue
		}
		stat, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "stat"))
		uptime, _ := os.ReadFile("/proc/uptime")
		// Behind the name: state is the first field, utime the 12th, starttime the 20th.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 20 || len(uptime) == 0 {
			continue
		}
		return bootTime{
			banner: number(strings.Fields(string(uptime))[0]) - number(fields[19])/ticks,
			cpu:    (number(fields[11]) + number(fields[12])) / ticks,
		}
	}
	return bootTime{}
}

func number(s string) float64 {
	n, _ := strconv.ParseFloat(s, 64)
	return n
}

func report(t *testing.T, ways []way, took map[string][]bootTime) {
	of := func(w way, get func(bootTime) float64) float64 {
		var values []float64
		for _, b := range took[w.name] {
			values = append(values, get(b))
		}
		return median(values)
	}
	banner := func(b bootTime) float64 { return b.banner }
	session := func(b bootTime) float64 { return b.session }
	cpu := func(b bootTime) float64 { return b.cpu }
	lines := []string{"", "| boot, medians | domain start to banner, s | × | to session, s | × | processor s to banner | × |", "|---|---|---|---|---|---|---|"}
	for _, w := range ways {
		line := "| " + w.name
		for _, get := range []func(bootTime) float64{banner, session, cpu} {
			line += fmt.Sprintf(" | %.1f | %.2f", of(w, get), of(w, get)/of(ways[0], get))
		}
		lines = append(lines, line+" |")
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
