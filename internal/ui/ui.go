// Package ui holds the streams of a run of meros and the way it talks on them.
//
// Rules: results go to Out and nothing else does; talk goes to Err, one line a
// step, lower case, no full stop. Lines are redrawn and coloured only on a
// terminal. Bytes that come from a guest or a tool never reach a terminal raw:
// Clean them first.
package ui

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// Streams are where a command reads and writes. They are handed in: no package
// uses os.Stdout.
type Streams struct {
	In      io.Reader
	Out     io.Writer // results
	Err     io.Writer // progress and diagnostics
	Verbose bool      // show what host programs print
	Quiet   bool      // print no steps, only warnings

	mu   sync.Mutex
	over io.Writer // takes the lines for Err while a board is drawn there
}

// Step says on Err what is being done now.
func (s *Streams) Step(format string, args ...any) {
	if !s.Quiet {
		s.line("", format, args...)
	}
}

// Warn says on Err what the person should know although the work goes on.
func (s *Streams) Warn(format string, args ...any) {
	s.line("warning: ", format, args...)
}

func (s *Streams) line(prefix, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.Err
	if s.over != nil {
		w = s.over
	}
	end := "\n"
	if _, tty := Terminal(w); tty && restore.Load() != nil { // on a raw terminal that is down, and not back
		end = "\r\n"
	}
	fmt.Fprint(w, "meros: "+prefix+Clean(fmt.Sprintf(format, args...))+end)
}

func (s *Streams) redirect(w io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = w
}

// Tool is where host programs write: Err with --verbose, else nowhere.
func (s *Streams) Tool() io.Writer {
	if s.Verbose {
		return s.Err
	}
	return io.Discard
}

// Terminal returns the file behind a stream when it is a terminal.
func Terminal(stream any) (*os.File, bool) {
	f, ok := stream.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, false
	}
	return f, true
}

// Clean returns s with every control character, escape code and invalid byte
// made visible, so that text from a guest cannot drive the terminal it is
// printed on. Tabs and new lines stay.
func Clean(s string) string {
	if isClean(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case dangerous(r):
			b.WriteString(escape(r))
		default:
			b.WriteRune(r)
		}
		i += size
	}
	return b.String()
}

func escape(r rune) string {
	if r < 0x100 {
		return fmt.Sprintf(`\x%02x`, r)
	}
	return fmt.Sprintf(`\u%04x`, r)
}

func isClean(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, dangerous) < 0
}

// dangerous runes are the C0 and C1 controls but tab and new line, and the
// format characters (category Cf), which reorder or hide text.
func dangerous(r rune) bool {
	if r == '\n' || r == '\t' {
		return false
	}
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r)
}
