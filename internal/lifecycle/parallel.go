package lifecycle

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"meros/internal/family"
	"meros/internal/store"
)

// jobMemory is what a target's build may take at its height, in KiB: a package
// manager, and pages of an image that are not on the disk yet.
const jobMemory = 1 << 20

// jobsPerCPU is more than one: a build waits at times, for the network and the disk, and
// the last of three targets would else have one of two processors alone.
const jobsPerCPU = 2

// jobs is how many of n targets are built at once.
func (o BuildOptions) jobs(n int) int {
	if o.Jobs > 0 {
		return min(o.Jobs, n)
	}
	return max(1, min(n, jobsPerCPU*runtime.NumCPU(), freeMemory()/jobMemory))
}

// freeMemory is the memory that programs may take without swapping, in KiB
// (proc(5), MemAvailable).
func freeMemory() int {
	content, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(content), "MemAvailable:")
	kib, err := strconv.Atoi(strings.Fields(rest + " 0")[0])
	if err != nil {
		return 0
	}
	return kib
}

// parallel does build for all targets, jobs at once, and returns all errors. One
// target's fault is no reason to stop the others.
func (b Builder) parallel(targets []*family.Target, jobs int, build func(*family.Target) error) error {
	errs := make([]error, len(targets))
	places := make(chan struct{}, jobs)
	var wg sync.WaitGroup
	for i, t := range targets {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			errs[i] = build(t)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// making keeps targets that are built side by side from making one layer twice.
type making struct {
	mu    sync.Mutex
	locks map[store.Key]*sync.Mutex
}

func newMaking() *making {
	return &making{locks: map[store.Key]*sync.Mutex{}}
}

func (m *making) lock(key store.Key) (unlock func()) {
	m.mu.Lock()
	l := m.locks[key]
	if l == nil {
		l = &sync.Mutex{}
		m.locks[key] = l
	}
	m.mu.Unlock()
	l.Lock()
	return l.Unlock
}

// packBehind is how much of a build lies behind when packing starts, in percent, and
// compressBehind how much when the image is then compressed.
const packBehind, compressBehind = 88, 94

// behind is how much lies behind when stage i starts, in percent: a guess by the
// usual share of each stage.
func (w *work) behind(i int) int {
	shares := []int{0, 45, 80, 83}
	return shares[min(i, len(shares)-1)]
}
