package ui

import (
	"fmt"
	"os"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// Board shows works that go on side by side: on a terminal a line each, redrawn
// with stage and percentage; elsewhere a plain line for each stage.
type Board struct {
	s *Streams
	p *mpb.Progress // nil: plain lines
}

// Board starts a board on Err. Close it.
func (s *Streams) Board() *Board {
	b := &Board{s: s}
	if f, ok := Terminal(s.Err); ok && !s.Verbose && !s.Quiet && hasSize(f) {
		b.p = mpb.New(mpb.WithOutput(f), mpb.WithWidth(24))
		s.redirect(b.p)
	}
	return b
}

// hasSize reports whether a terminal says how large it is: lines are drawn to
// its width.
func hasSize(f *os.File) bool {
	width, _, err := term.GetSize(int(f.Fd()))
	return err == nil && width > 0
}

// Close ends the board: from now on lines go to Err again.
func (b *Board) Close() {
	if b.p != nil {
		b.p.Wait()
		b.s.redirect(nil)
	}
}

// Line is one work's line on a board.
type Line struct {
	b    *Board
	name string
	bar  *mpb.Bar

	mu    sync.Mutex
	stage string
}

// Line adds the line of a work.
func (b *Board) Line(name string) *Line {
	l := &Line{b: b, name: Clean(name)}
	if b.p != nil {
		l.bar = b.p.AddBar(100, mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Name(l.name+" ", decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.Percentage(decor.WC{W: 5}), decor.Any(func(decor.Statistics) string { return "  " + l.now() })))
	}
	return l
}

func (l *Line) now() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stage
}

// Stage says what the work does now, and how much of it lies behind in percent.
func (l *Line) Stage(percent int, format string, args ...any) {
	stage := Clean(fmt.Sprintf(format, args...))
	if l.bar == nil {
		l.b.s.Step("%s: %s", l.name, stage)
		return
	}
	l.mu.Lock()
	l.stage = stage
	l.mu.Unlock()
	l.bar.SetCurrent(int64(min(percent, 99)))
}

// Now is Stage for what changes all the time: it is said only where the line is
// redrawn.
func (l *Line) Now(percent int, format string, args ...any) {
	if l.bar != nil {
		l.Stage(percent, format, args...)
	}
}

// End takes the line off the board and says how the work ended.
func (l *Line) End(format string, args ...any) {
	if l.bar != nil {
		l.bar.Abort(true)
	}
	if format != "" {
		l.b.s.Step("%s: %s", l.name, fmt.Sprintf(format, args...))
	}
}
