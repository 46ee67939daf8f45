package ui_test

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"meros/internal/ui"
	"meros/internal/ui/uitest"
)

// work is what two targets say on a board.
func work(s *ui.Streams, pause time.Duration) {
	b := s.Board()
	one, two := b.Line("one"), b.Line("t\x1bwo")
	one.Stage(10, "bootstrapping %s", "debian")
	two.Stage(45, "installing")
	two.Now(50, "17 packages")
	time.Sleep(pause)
	s.Step("between")
	one.End("built in 3s")
	two.End("")
	b.Close()
	s.Step("after")
}

func TestBoardWithoutATerminal(t *testing.T) {
	var errs bytes.Buffer
	work(&ui.Streams{Err: &errs}, 0)
	want := "meros: one: bootstrapping debian\nmeros: t\\x1bwo: installing\nmeros: between\nmeros: one: built in 3s\nmeros: after\n"
	if got := errs.String(); got != want {
		t.Errorf("Err = %q, want %q", got, want)
	}
}

// On a terminal each work has a line with its stage and how much lies behind.
func TestBoardOnATerminal(t *testing.T) {
	master, tty := uitest.OpenPTY(t, 100, 24)
	var shown bytes.Buffer
	var copied sync.WaitGroup
	copied.Go(func() { _, _ = io.Copy(&shown, master) }) // ends with EIO
	work(&ui.Streams{Err: tty}, 500*time.Millisecond)
	if err := tty.Close(); err != nil {
		t.Fatal(err)
	}
	copied.Wait()
	for _, want := range []string{"10 %", "bootstrapping debian", "50 %", "17 packages", "meros: between", "meros: one: built in 3s", "meros: after"} {
		if !strings.Contains(shown.String(), want) {
			t.Errorf("%q is not on the terminal:\n%q", want, shown.String())
		}
	}
	if strings.Contains(shown.String(), "t\x1bwo") {
		t.Error("a name reaches the terminal as it is")
	}
}
