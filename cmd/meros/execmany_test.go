package main

import (
	"bytes"
	"sync"
	"testing"
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
