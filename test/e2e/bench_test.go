//go:build kernel

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"meros/internal/virt"
)

// bootTime is how long a guest took, in seconds.
type bootTime struct {
	banner  float64 // from the start of its domain to its sshd's first line
	session float64 // to a session that was accepted, as init says
	cpu     float64 // of the host's processors, until its sshd's first line
}

// TestBenchBoot measures, interleaved, how long a guest takes from the start of
// its domain to sshd's banner and to a session. MEROS_BENCH_BOOT is the number of
// rounds, MEROS_BENCH_ONLY picks ways by their names.
func TestBenchBoot(t *testing.T) {
	rounds, _ := strconv.Atoi(os.Getenv("MEROS_BENCH_BOOT"))
	if rounds < 1 {
		t.Skip("needs MEROS_BENCH_BOOT, the number of rounds, as make bench-boot sets it")
	}
	needKernel(t)
	ways, noKVM := usable(t, allWays(os.Getenv("MEROS_BENCH_ONLY")))
	if len(ways) == 0 {
		t.Fatalf("MEROS_BENCH_ONLY=%q matches no way", os.Getenv("MEROS_BENCH_ONLY"))
	}
	root := kernelRoot(t)
	t.Cleanup(func() { meros(t, root, "shutdown", "--force") })
	kernelFamily(t, root)
	bootImages(t, root, ways)
	took := map[string][]bootTime{}
	for round := range rounds {
		for _, w := range ways {
			if w.accel == string(virt.AccelKVM) && noKVM != nil {
				continue
			}
			b := boot(t, root, w)
			took[w.name()] = append(took[w.name()], b)
			t.Logf("round %d: banner %5.1f s, %5.1f s of processors, session %5.1f s  %s", round+1, b.banner, b.cpu, b.session, w.name())
		}
	}
	report(t, ways, took, noKVM)
}

// imageOf is the folder of a way's image and kernel.
func imageOf(root string, w way) string {
	return filepath.Join(root, "data/bench", w.kernel+w.image)
}

// bootImages builds what the ways boot, each once; the kernel too, if one needs it.
func bootImages(t *testing.T, root string, ways []way) {
	t.Helper()
	for _, w := range ways {
		if _, err := os.Stat(imageOf(root, w)); err == nil {
			continue
		}
		if w.kernel == "source" {
			mustRun(t, root, "kernel-build", "--source", "distro")
			keepKernel(t, root)
		}
		undo := edited(t, root, "mos_kern/rootfs/common/hooks/10-trim.sh", images[w.image])
		mustRun(t, root, "build", "mos_kern", "--kernel", w.kernel)
		undo()
		copyImage(t, filepath.Join(root, "data/images"), imageOf(root, w))
	}
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
func boot(t *testing.T, root string, w way) bootTime {
	t.Helper()
	copyImage(t, imageOf(root, w), filepath.Join(root, "data/images"))
	defer edited(t, root, "mos_kern/libvirt/box.xml", w.edits)()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	banner := make(chan bootTime, 1)
	go func() { banner <- awaitBanner(ctx) }()
	args := []string{"init", "mos_kern"}
	if w.accel != "" {
		args = append(args, "--accel", w.accel)
	}
	r := mustRun(t, root, args...)
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

// report logs a table: what each way took, and how many times what the first of all
// and what its own kind takes that is.
func report(t *testing.T, ways []way, took map[string][]bootTime, noKVM error) {
	of := func(name string, get func(bootTime) float64) float64 {
		var values []float64
		for _, b := range took[name] {
			values = append(values, get(b))
		}
		return median(values)
	}
	lines := []string{
		"", "| boot, medians | domain start to banner, s | × | × of its kind | to session, s | × | processor s to banner | × |",
		"|---|---|---|---|---|---|---|---|",
	}
	first := ways[0].name()
	for _, w := range ways {
		line := "| " + w.name()
		if w.factor != "" && took[w.kind] != nil {
			line = "| … " + w.factor
		}
		if w.accel == string(virt.AccelKVM) && noKVM != nil {
			line += fmt.Sprintf(" (not usable here: %v)", noKVM)
		}
		add := func(get func(bootTime) float64, against ...string) {
			now := of(w.name(), get)
			line += " | " + cell("%.1f", now)
			for _, name := range against {
				line += " | " + cell("%.2f", now/of(name, get))
			}
		}
		add(func(b bootTime) float64 { return b.banner }, first, w.kind)
		add(func(b bootTime) float64 { return b.session }, first)
		add(func(b bootTime) float64 { return b.cpu }, first)
		lines = append(lines, line+" |")
	}
	t.Log(strings.Join(lines, "\n"))
}

// cell is a number of the table, or a dash for what was not measured.
func cell(form string, n float64) string {
	if math.IsNaN(n) {
		return "–"
	}
	return fmt.Sprintf(form, n)
}

// median is not a number where there are no values.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.SortedFunc(slices.Values(values), cmp.Compare)
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}
