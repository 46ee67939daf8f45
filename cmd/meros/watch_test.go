package main

import "testing"

func TestInPlace(t *testing.T) {
	if got := string(inPlace([]byte("a\nb\n"), false)); got != "a\nb\n" {
		t.Errorf("not on a terminal: %q", got)
	}
	if got, want := string(inPlace([]byte("a\nb\n"), true)), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J"; got != want {
		t.Errorf("on a terminal: %q, want %q", got, want)
	}
}
