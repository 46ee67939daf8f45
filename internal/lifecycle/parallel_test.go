package lifecycle

import (
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"meros/internal/family"
)

// As many builds as there are jobs go on at once, no more; what one says of its fault
// keeps none of the others from theirs.
func TestParallel(t *testing.T) {
	var targets []*family.Target
	for range 5 {
		targets = append(targets, &family.Target{})
	}
	for _, jobs := range []int{1, 2, 5} {
		var now, most, calls atomic.Int32
		all := make(chan struct{}) // closed once as many run as there are jobs
		bad := errors.New("bad")
		err := Builder{}.parallel(targets, jobs, func(x *family.Target) error {
			defer now.Add(-1)
			n := now.Add(1)
			most.Store(max(most.Load(), n))
			if calls.Add(1) == int32(jobs) {
				close(all)
			}
			select {
			case <-all:
			case <-time.After(10 * time.Second):
				t.Errorf("%d jobs: %d run", jobs, n)
			}
			if x == targets[1] || x == targets[3] {
				return bad
			}
			return nil
		})
		if calls.Load() != 5 || most.Load() > int32(jobs) || err == nil || err.Error() != "bad\nbad" {
			t.Errorf("%d jobs: %d calls, %d at once, error %v", jobs, calls.Load(), most.Load(), err)
		}
	}
}

func TestJobs(t *testing.T) {
	for o, want := range map[BuildOptions]int{{Jobs: 3}: 3, {Jobs: 9}: 4} {
		if got := o.jobs(4); got != want {
			t.Errorf("jobs of %+v for 4 targets: %d, want %d", o, got, want)
		}
	}
	if got := (BuildOptions{}).jobs(1); got != 1 {
		t.Errorf("one target takes %d jobs", got)
	}
	if got := (BuildOptions{}).jobs(1 << 20); got < 1 || freeMemory() <= 0 || got > max(1, freeMemory()/jobMemory) || got > 2*runtime.NumCPU() {
		t.Errorf("%d jobs with %d KiB of memory free", got, freeMemory())
	}
}
