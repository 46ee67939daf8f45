package ui_test

import (
	"bytes"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"meros/internal/ui"
)

func TestCleanMakesControlBytesVisible(t *testing.T) {
	for in, want := range map[string]string{
		"plain\tü\n":           "plain\tü\n",
		"\x1b]0;title\x07":     `\x1b]0;title\x07`,
		"\xff\xfe":             `\xff\xfe`,
		"a\rb":                 `a\x0db`,
		"c1 \u009b31m":         `c1 \x9b31m`,
		"right\u202eto left":   `right\u202eto left`,
		"del\x7f zero\x00byte": `del\x7f zero\x00byte`,
	} {
		if got := ui.Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestStepAndWarnGoToErrOnly(t *testing.T) {
	var out, errs bytes.Buffer
	s := &ui.Streams{Out: &out, Err: &errs}
	s.Step("packing %s", "a\x1bb")
	s.Warn("slow")
	s.Quiet = true
	s.Step("unseen")
	if got, want := errs.String(), "meros: packing a\\x1bb\nmeros: warning: slow\n"; got != want {
		t.Errorf("Err = %q, want %q", got, want)
	}
	if out.Len() != 0 {
		t.Errorf("Out = %q, want nothing", out.String())
	}
}

func FuzzClean(f *testing.F) {
	f.Add("\x1b[2J\u202e\xc3\x28")
	f.Fuzz(func(t *testing.T, s string) {
		if again := ui.Clean(ui.Clean(s)); again != ui.Clean(s) {
			t.Errorf("Clean is not idempotent for %q", s)
		}
		unfit := func(r rune) bool {
			return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r))
		}
		if got := ui.Clean(s); !utf8.ValidString(got) || strings.IndexFunc(got, unfit) >= 0 {
			t.Errorf("Clean(%q) = %q", s, got)
		}
	})
}
