//go:build bench

package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// contender is one of several ways to do the same.
type contender struct {
	name string
	argv []string
}

// TestBenchSession compares sessions of meros with OpenSSH's and rsync, in turns
// on one running guest, and prints a table. make bench-session calls it.
func TestBenchSession(t *testing.T) {
	if os.Getenv("MEROS_BENCH_SESSION") == "" {
		t.Skip("make bench-session runs it")
	}
	needHost(t)
	root := sessRoot(t)
	config, dir := sshConfigFile(t, root), t.TempDir()
	control := filepath.Join(os.TempDir(), "bench-"+strconv.Itoa(os.Getpid()))
	ssh := []string{"ssh", "-F", config, "-o", "ControlPath=none"}
	warm := []string{"ssh", "-F", config, "-o", "ControlPath=" + control}
	if out, err := exec.Command("ssh", "-F", config, "-o", "ControlPath="+control, "-fNM", sess).CombinedOutput(); err != nil {
		t.Fatalf("no ControlMaster: %s", out)
	}
	defer func() { _ = exec.Command("ssh", "-F", config, "-o", "ControlPath="+control, "-O", "exit", sess).Run() }()
	m := []string{binary, "--root", root, "--quiet"}
	with := func(base []string, more ...string) []string { return append(slices.Clone(base), more...) }
	reset := func() {
		_ = exec.Command(binary, "--root", root, "exec", sess, "--", "sh", "-c", "rm -rf ~/bench; mkdir ~/bench").Run()
	}

	compare(t, "exec true, cold", 5, nil, []contender{
		{"meros exec --no-master", with(m, "exec", "--no-master", sess, "--", "true")},
		{"ssh", with(ssh, sess, "true")},
	})
	// What one way prepares while the other is measured would be counted against that.
	pause := func() { time.Sleep(4 * time.Second) }
	short := []contender{
		{"meros exec", with(m, "exec", sess, "--", "true")},
		{"ssh, ControlMaster", with(warm, sess, "true")},
	}
	rested := compare(t, "exec true, warm, after a pause", 15, pause, short)
	compare(t, "exec true, warm, at once", 30, nil, short)
	big := filepath.Join(dir, "big")
	makeRandom(t, big, benchSize(t, "MEROS_BENCH_MIB", 256)<<20)
	// meros ssh-config asks for the ciphers of meros: the goal is held against scp's own.
	own := []string{"scp", "-q", "-F", config, "-o", "Ciphers=^chacha20-poly1305@openssh.com"}
	large := compare(t, "one large file", 3, reset, []contender{
		{"meros push", with(m, "push", sess, "--to", "bench", big)},
		{"scp, its own first cipher", with(own, big, sess+":bench/")},
		{"scp", []string{"scp", "-q", "-F", config, big, sess + ":bench/"}},
		{"scp, ControlMaster", []string{"scp", "-q", "-F", config, "-o", "ControlPath=" + control, big, sess + ":bench/"}},
		{"rsync", []string{"rsync", "-a", "-e", strings.Join(ssh, " "), big, sess + ":bench/"}},
	})
	small := filepath.Join(dir, "small")
	for i := range benchSize(t, "MEROS_BENCH_FILES", 10000) {
		makeRandom(t, filepath.Join(small, strconv.Itoa(i/100), strconv.Itoa(i)), 500+i%1000)
	}
	many := compare(t, "many small files", 3, reset, []contender{
		{"meros push", with(m, "push", sess, "--to", "bench", small)},
		{"rsync", []string{"rsync", "-a", "-e", strings.Join(ssh, " "), small, sess + ":bench/"}},
		{"rsync, ControlMaster", []string{"rsync", "-a", "-e", strings.Join(warm, " "), small, sess + ":bench/"}},
	})
	fmt.Printf("\n| ratio | measured | goal |\n|---|---|---|\n")
	fmt.Printf("| exec true, warm, after a pause: meros / ControlMaster | %.2f | ≤ 0.9 |\n", rested[0]/rested[1])
	fmt.Printf("| one large file: throughput of meros / scp by its own cipher | %.2f | ≥ 2 |\n", large[1]/large[0])
	fmt.Printf("| one large file: throughput of meros / scp by meros ssh-config | %.2f | |\n", large[2]/large[0])
	fmt.Printf("| many small files: throughput of meros / rsync | %.2f | ≥ 1 |\n", many[1]/many[0])
}

func benchSize(t *testing.T, name string, usual int) int {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		return usual
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func makeRandom(t *testing.T, file string, size int) {
	t.Helper()
	content := make([]byte, size)
	rand.Read(content)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// compare runs the ways in turns, prints the medians and returns them, in seconds.
func compare(t *testing.T, what string, rounds int, before func(), ways []contender) (medians []float64) {
	t.Helper()
	took := make([][]time.Duration, len(ways))
	for range rounds {
		for i, w := range ways {
			if before != nil {
				before()
			}
			started := time.Now()
			if out, err := exec.Command(w.argv[0], w.argv[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%s: %s: %v\n%s", what, w.name, err, out)
			}
			took[i] = append(took[i], time.Since(started))
		}
	}
	for i, w := range ways {
		slices.Sort(took[i])
		medians = append(medians, took[i][len(took[i])/2].Seconds())
		fmt.Printf("| %s | %s | %.3f | %.2f |\n", what, w.name, medians[i], medians[i]/medians[0])
	}
	return medians
}
