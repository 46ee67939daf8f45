package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cost is what one way took, once.
type cost struct {
	wall, cpu time.Duration
	peakRSS   int64 // bytes; of the largest process among all that took part
	written   int64 // bytes that were given to storage, as proc(5) counts write_bytes
}

// measured runs argv in dir and tells what it cost, its children's share
// included as far as somebody waited for them.
func measured(dir string, argv ...string) (cost, error) {
	syscall.Sync() // what others wrote is not to be paid by this one
	before, err := writeBytes()
	if err != nil {
		return cost{}, err
	}
	started := time.Now()
	state, err := run(dir, argv...)
	if err != nil {
		return cost{}, err
	}
	c := cost{wall: time.Since(started), cpu: state.UserTime() + state.SystemTime()}
	if usage, ok := state.SysUsage().(*syscall.Rusage); ok {
		c.peakRSS = usage.Maxrss << 10
	}
	after, err := writeBytes()
	c.written = after - before
	return c, err
}

// and is the cost of two things one after the other.
func (c cost) and(next cost) cost {
	return cost{
		wall: c.wall + next.wall, cpu: c.cpu + next.cpu,
		peakRSS: max(c.peakRSS, next.peakRSS), written: c.written + next.written,
	}
}

// inTurn runs commands one after the other.
func inTurn(dir string, commands [][]string) (all cost, err error) {
	for _, argv := range commands {
		c, err := measured(dir, argv...)
		if err != nil {
			return all, err
		}
		all = all.and(c)
	}
	return all, nil
}

// run returns an error that ends in the program's last words.
func run(dir string, argv ...string) (*os.ProcessState, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", argv[0], err, lastLines(out, 3))
	}
	return cmd.ProcessState, nil
}

func lastLines(out []byte, n int) string {
	lines := strings.Split(string(bytes.TrimSpace(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], " / ")
}

// writeBytes is what this process and those it waited for caused to be written.
func writeBytes() (int64, error) {
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, found := strings.CutPrefix(line, "write_bytes: "); found {
			return strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		}
	}
	return 0, fmt.Errorf("/proc/self/io: no write_bytes")
}

// median is that of each figure apart.
func median(all []cost) cost {
	return cost{
		wall:    middle(all, func(c cost) time.Duration { return c.wall }),
		cpu:     middle(all, func(c cost) time.Duration { return c.cpu }),
		peakRSS: middle(all, func(c cost) int64 { return c.peakRSS }),
		written: middle(all, func(c cost) int64 { return c.written }),
	}
}

func middle[T int64 | time.Duration](all []cost, figure func(cost) T) T {
	var figures []T
	for _, c := range all {
		figures = append(figures, figure(c))
	}
	slices.Sort(figures)
	return figures[len(figures)/2]
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
