package main

import (
	"bytes"
	"strings"
	"sync"
	"testing"

	"meros/internal/ui"
)

func TestPrefixed(t *testing.T) {
	var out bytes.Buffer
	p := &prefixed{mu: &sync.Mutex{}, w: &out, prefix: "a-b: "}
	for _, part := range []string{"one\ntw", "o\n\n\x1b[2J", "end"} {
		if n, err := p.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	p.end()
	p.end()
	if got, want := out.String(), "a-b: one\na-b: two\na-b: \na-b: \\x1b[2Jend\n"; got != want {
		t.Errorf("written %q, want %q", got, want)
	}
}

func TestIsPattern(t *testing.T) {
	for word, want := range map[string]bool{"mos_lab-*": true, "mos_lab-a,mos_lab-b": true, "mos_lab-?": true, "mos_lab-a": false, "": false} {
		if got := isPattern(word); got != want {
			t.Errorf("isPattern(%q) = %v", word, got)
		}
	}
}

// Whatever a guest prints in whatever pieces, each line of it is said to be the guest's.
func FuzzPrefixed(f *testing.F) {
	f.Add("one\ntwo\x1b[2J\r\n\nend", uint8(3))
	f.Fuzz(func(t *testing.T, text string, size uint8) {
		var out bytes.Buffer
		p := &prefixed{mu: &sync.Mutex{}, w: &out, prefix: "a-b: "}
		for rest := []byte(text); len(rest) > 0; {
			n := min(int(size)+1, len(rest))
			if wrote, err := p.Write(rest[:n]); wrote != n || err != nil {
				t.Fatalf("Write = %d, %v", wrote, err)
			}
			rest = rest[n:]
		}
		p.end()
		want := ""
		for line := range strings.Lines(text) {
			want += "a-b: " + ui.Clean(strings.TrimSuffix(line, "\n")) + "\n"
		}
		if got := out.String(); got != want && len(text) < maxLine {
			t.Errorf("written %q, want %q", got, want)
		}
	})
}
