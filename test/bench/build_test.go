package bench

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// ctx is that of the whole benchmark: go test's own time limit ends it.
var ctx = context.Background()

// BenchmarkBuild measures every way ROUNDS times (3), in turns, and writes what
// came of it into docs/performance.md.
func BenchmarkBuild(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	rounds, _ := strconv.Atoi(os.Getenv("ROUNDS"))
	r := newReport()
	for range max(rounds, 1) {
		round(b, r)
	}
	for name, ratio := range r.ratios() {
		b.ReportMetric(ratio, name)
	}
	must(b, r.write("../../docs"))
}

// round measures every way once, one after the other.
func round(b *testing.B, r *report) {
	b.Helper()
	x := newBench(b)
	defer os.RemoveAll(x.dir)
	for _, w := range ways {
		if r.failed[w.name] != nil {
			continue
		}
		c, err := w.cost(x)
		if err != nil && !w.peer {
			b.Fatalf("%s: %v", w.name, err)
		}
		b.Logf("%s: %.2f s, %v", w.name, c.wall.Seconds(), err)
		r.add(w.name, c, err)
	}
}

func newBench(b *testing.B) bench {
	b.Helper()
	dir, err := os.MkdirTemp("", "meros-bench-")
	must(b, err)
	binary, err := filepath.Abs("../../bin/meros")
	must(b, err)
	mirror, err := hostMirror()
	must(b, err)
	return bench{dir: dir, binary: binary, mirror: mirror}
}
