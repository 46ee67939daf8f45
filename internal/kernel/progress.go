package kernel

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"meros/internal/ui"
)

// perSymbol is how many files a built-in symbol of our fragments means: 2.07
// with 6.1, measured. It only guides the first estimate: later ones know better.
const perSymbol = 2.07

// sayEvery is the pause between two lines of progress where there is no terminal.
const sayEvery = 30 * time.Second

var compiles = regexp.MustCompile(`^  (CC|AS)\s`)

// progress counts the files that make says it compiles.
type progress struct {
	s       *ui.Streams
	tty     io.Writer // nil: no terminal
	started time.Time
	now     func() time.Time

	mu            sync.Mutex
	part          []byte // of a line
	before, count int    // files that were there; files compiled since
	total         int    // expected, both together
	older         bool   // files of an earlier configuration are there, of which make may take some
	said          time.Time
}

func newProgress(s *ui.Streams, before, total int, older bool) *progress {
	p := &progress{s: s, before: before, total: total, older: older, now: time.Now}
	p.started = p.now()
	p.said = p.started
	if tty, ok := ui.Terminal(s.Err); ok && !s.Quiet && !s.Verbose {
		p.tty = tty
	}
	return p
}

// Write implements io.Writer: it takes what make prints.
func (p *progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.part = append(p.part, b...)
	for {
		line, rest, ok := bytes.Cut(p.part, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		if compiles.Match(line) {
			p.count++
			p.say()
		}
		p.part = rest
	}
}

func (p *progress) say() {
	now := p.now()
	switch {
	case p.tty != nil && now.Sub(p.said) > 200*time.Millisecond:
		p.said = now
		fmt.Fprintf(p.tty, "\r\x1b[Kmeros: %s", p.words(now))
	case p.tty == nil && now.Sub(p.said) >= sayEvery:
		p.said = now
		p.s.Step("%s", p.words(now))
	}
}

// words say how far it is, such as: compiling: 431 of about 1500 files, 29 %, 5m left
func (p *progress) words(now time.Time) string {
	done := p.before + p.count
	if done > p.total {
		return fmt.Sprintf("compiling: %d files, more than the %d that were expected", done, p.total)
	}
	words, most := fmt.Sprintf("compiling: %d of about %d files, %d %%", done, p.total, 100*done/p.total), ""
	if p.older {
		words, most = fmt.Sprintf("compiling: %d files, at most about %d more", done, p.total-done), "at most "
	}
	if p.count >= 20 {
		left := now.Sub(p.started) / time.Duration(p.count) * time.Duration(p.total-done)
		words += ", " + most + roughly(left) + " left"
	}
	return words
}

func roughly(d time.Duration) string {
	if d < time.Minute {
		return d.Round(time.Second).String()
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
}

// end takes the line on the terminal away and returns how many files there are.
func (p *progress) end() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tty != nil {
		fmt.Fprint(p.tty, "\r\x1b[K")
	}
	return p.before + p.count
}

// objectsIn counts the object files below dir: those of the configuration that is
// there, which a broken-off build has compiled already, and those of an earlier one.
func objectsIn(dir string) (current, older int) {
	var configured time.Time
	if info, err := os.Stat(filepath.Join(dir, ".config")); err == nil {
		configured = info.ModTime()
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".o") || strings.HasSuffix(path, "built-in.o") {
			return nil
		}
		// kconfig writes the configuration, so it is always older.
		ofKconfig := filepath.Base(filepath.Dir(path)) == "kconfig"
		if info, err := d.Info(); err == nil && !ofKconfig && info.ModTime().Before(configured) {
			older++
		} else {
			current++
		}
		return nil
	})
	return current, older
}
