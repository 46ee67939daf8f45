package bench

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"text/template"
	"time"
)

// report collects what the ways cost, round after round.
type report struct {
	costs  map[string][]cost
	failed map[string]error // peers that this host cannot run, and their words
}

func newReport() *report {
	return &report{costs: map[string][]cost{}, failed: map[string]error{}}
}

func (r *report) add(name string, c cost, err error) {
	if err != nil {
		r.failed[name] = err
		return
	}
	r.costs[name] = append(r.costs[name], c)
}

func (r *report) wall(name string) float64 {
	if len(r.costs[name]) == 0 {
		return 0
	}
	return median(r.costs[name]).wall.Seconds()
}

// A promise is a ratio that the project holds itself to, or a number of seconds.
type promise struct {
	Name   string
	Of     string   // a way
	To     []string // ways, which are added up; none: the promise is in seconds
	AtMost float64
}

var promises = []promise{
	{"cold build / (bare mmdebstrap + pack)", "meros, cold", []string{"mmdebstrap, directory", "meros packs it"}, 1.05},
	{"cold build / mkosi", "meros, cold", []string{"mkosi"}, 0.75},
	{"pack / cp -a", "meros packs it", []string{"cp -a of it"}, 1.7},
	{"one file changed / cold", "meros, one file changed", []string{"meros, cold"}, 0.10},
	{"three targets / one", "meros, three targets, cold", []string{"meros, cold"}, 1.7},
	{"nothing changed, seconds", "meros, nothing changed", nil, 0.3},
}

// ratio is measured, unless one of its ways was not.
func (p promise) ratio(r *report) (ratio float64, measured bool) {
	if len(p.To) == 0 {
		return r.wall(p.Of), r.wall(p.Of) > 0
	}
	var to float64
	for _, way := range p.To {
		if r.wall(way) == 0 {
			return 0, false
		}
		to += r.wall(way)
	}
	return r.wall(p.Of) / to, true
}

// ratios are the promises' by their names without spaces.
func (r *report) ratios() map[string]float64 {
	all := map[string]float64{}
	for _, p := range promises {
		if ratio, measured := p.ratio(r); measured {
			all[strings.ReplaceAll(p.Name, " ", "")] = ratio
		}
	}
	return all
}

//go:embed testdata/report.md
var reportText string

const (
	begins = "<!-- make bench-build writes from here … -->\n"
	ends   = "<!-- … to here -->\n"
)

// write replaces the marked part of performance.md in docs, and its picture.
func (r *report) write(docs string) error {
	file := filepath.Join(docs, "performance.md")
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	head, rest, found := strings.Cut(string(old), begins)
	_, tail, foundToo := strings.Cut(rest, ends)
	if !found || !foundToo {
		return fmt.Errorf("%s: no place for the figures between %q and %q", file, begins, ends)
	}
	var text bytes.Buffer
	text.WriteString(head + begins)
	if err := template.Must(template.New("").Parse(reportText)).Execute(&text, r.told()); err != nil {
		return err
	}
	text.WriteString(ends + tail)
	if err := os.WriteFile(file, text.Bytes(), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(docs, "bench-build.svg"), r.plot(), 0o644)
}

// told is what the text is filled with.
func (r *report) told() any {
	type row struct{ Name, Wall, CPU, Memory, Written string }
	type held struct {
		promise
		Ratio string
	}
	var told struct {
		Date, Machine, Versions string
		Rounds                  int
		Rows                    []row
		Promises                []held
		Failed                  map[string]error
	}
	told.Date, told.Machine, told.Versions = time.Now().UTC().Format(time.DateOnly), machine(), versions()
	told.Rounds, told.Failed = len(r.costs[ways[0].name]), r.failed
	for _, w := range ways {
		if r.failed[w.name] != nil {
			continue
		}
		c := median(r.costs[w.name])
		told.Rows = append(told.Rows, row{
			w.name, fmt.Sprintf("%.2f", c.wall.Seconds()),
			orDash(c.cpu.Seconds(), "%.1f"), orDash(float64(c.peakRSS>>20), "%.0f"), orDash(float64(c.written>>20), "%.0f"),
		})
	}
	for _, p := range promises {
		text := "not measured"
		if ratio, measured := p.ratio(r); measured {
			text = fmt.Sprintf("%.2f", ratio)
		}
		told.Promises = append(told.Promises, held{p, text})
	}
	return told
}

func orDash(x float64, format string) string {
	if x == 0 {
		return "–"
	}
	return fmt.Sprintf(format, x)
}

func machine() string {
	memory := "?"
	if data, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kib int64
		if _, err := fmt.Sscanf(string(data), "MemTotal: %d kB", &kib); err == nil {
			memory = fmt.Sprintf("%.0f GiB", float64(kib)/(1<<20))
		}
	}
	model := ""
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, after, _ := strings.Cut(string(data), "model name")
		after, _, _ = strings.Cut(after, "\n")
		model = " (" + strings.Trim(after, "\t :") + ")"
	}
	return fmt.Sprintf("%d processors%s, %s of memory", runtime.NumCPU(), model, memory)
}

// versions are those of the tools that are there, as Debian names them.
func versions() string {
	var all []string
	for _, name := range []string{"mmdebstrap", "e2fsprogs", "mkosi", "debootstrap", "libguestfs-tools", "vmdb2", "debos"} {
		out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", name).Output()
		if err == nil && len(out) > 0 {
			all = append(all, name+" "+string(out))
		}
	}
	return strings.Join(all, ", ")
}
