package e2e

import (
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// controllingTTY makes a child's standard input its controlling terminal.
var controllingTTY = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}

func typeLine(t *testing.T, f *os.File, line string) {
	t.Helper()
	if _, err := io.WriteString(f, line+"\n"); err != nil {
		t.Fatal(err)
	}
}

// follow copies what a terminal shows until it closes.
func (b *lockedBuffer) follow(f *os.File) { _, _ = io.Copy(b, f) }

// await waits until the text was shown.
func (b *lockedBuffer) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(b.String(), text); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q was never shown:\n%s", text, b)
		}
	}
}
