package session

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"meros/internal/ui"
)

// Summary says what a push or pull did.
type Summary struct {
	Files, Folders, Links int // files and links: those that were copied
	Same, Deleted         int // files and links that were there already; entries that were removed
	Bytes                 int64
	Took                  time.Duration
}

func (s Summary) String() string {
	parts := []string{number(s.Files, "file")}
	if s.Folders > 0 {
		parts = append(parts, number(s.Folders, "folder"))
	}
	if s.Links > 0 {
		parts = append(parts, number(s.Links, "link"))
	}
	if s.Same > 0 {
		parts = append(parts, fmt.Sprintf("%d unchanged", s.Same))
	}
	if s.Deleted > 0 {
		parts = append(parts, fmt.Sprintf("%d deleted", s.Deleted))
	}
	parts = append(parts, bytesOf(s.Bytes))
	return fmt.Sprintf("%s in %.1f s", strings.Join(parts, ", "), s.Took.Seconds())
}

func number(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// bytesOf returns n bytes in the largest unit that leaves a digit before the point.
func bytesOf(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	value, units := float64(n)/(1<<10), []string{"KiB", "MiB", "GiB", "TiB"}
	for value >= 1<<10 && len(units) > 1 {
		value, units = value/(1<<10), units[1:]
	}
	return fmt.Sprintf("%.1f %s", value, units[0])
}

// progress is a line on the terminal that shows how much has been copied.
type progress struct {
	container *mpb.Progress
	bar       *mpb.Bar
}

// unknown is the total of what ends when it ends.
const unknown = -1

// showProgress draws a progress line when Err is a terminal and there is anything to
// copy. Call end.
func showProgress(s *ui.Streams, what string, total int64) *progress {
	tty, ok := ui.Terminal(s.Err)
	if !ok || s.Quiet || total == 0 {
		return &progress{}
	}
	style, shown := mpb.BarFillerBuilder(mpb.BarStyle()), []decor.Decorator{
		decor.CountersKibiByte("% .1f / % .1f"),
		decor.AverageSpeed(decor.SizeB1024(0), " % .1f"),
		decor.AverageETA(decor.ET_STYLE_GO, decor.WCSyncSpace),
	}
	if total == unknown {
		style, shown = mpb.NopStyle(), []decor.Decorator{decor.CurrentKibiByte("% .1f"), shown[1]}
	}
	p := mpb.New(mpb.WithOutput(tty), mpb.WithWidth(40))
	bar := p.New(total, style, mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name("meros: "+what+" ")), mpb.AppendDecorators(shown...))
	return &progress{p, bar}
}

// moved counts n more bytes.
func (p *progress) moved(n int) {
	if p != nil && p.bar != nil {
		p.bar.IncrBy(n)
	}
}

// end takes the line away.
func (p *progress) end() {
	if p.bar != nil {
		p.bar.Abort(true)
		p.container.Wait()
	}
}

// counted is a writer to the host that asks before each write.
type counted struct {
	w     io.Writer
	allow func(n int) error // may refuse
}

// Write implements io.Writer.
func (c counted) Write(b []byte) (int, error) {
	if err := c.allow(len(b)); err != nil {
		return 0, err
	}
	n, err := c.w.Write(b)
	return n, local(err)
}
