package lifecycle

import (
	"bytes"
	"regexp"
	"strings"

	"meros/internal/ui"
)

// bootlog reads what a guest prints on its console while it boots. The bytes are
// the guest's: one that lies here harms only its own start.
type bootlog struct {
	at    rung   // how far it shows the guest to be
	fault string // why it will never be further; "" while it may

	line    []byte // the one that is not at its end yet
	kernels int    // how many have begun
}

const (
	// maxLine is how much of a line is looked at.
	maxLine = 1 << 10
	// maxKernels is how many kernels may begin in one start: a guest may restart
	// itself once, such as after it has grown its disk.
	maxKernels = 3
)

// Write implements io.Writer; it never fails.
func (b *bootlog) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		piece, rest, ended := bytes.Cut(p, []byte("\n"))
		b.line = append(b.line, piece[:min(len(piece), maxLine-len(b.line))]...)
		// A prompt has no end of line.
		b.read(string(b.line), ended)
		if p = rest; ended {
			b.line = b.line[:0]
		}
	}
	return n, nil
}

var (
	// Of the kernel: its first line, and the time before each (printk).
	kernelBegins = regexp.MustCompile(`\bLinux version \d`)
	kernelSpeaks = regexp.MustCompile(`^\s*\[ *\d+\.\d{6}\]`)
	// Of init: the kernel's word for it (init/main.c), unless it is the initrd's, and
	// how systemd, OpenRC, busybox and agetty begin.
	initRuns   = regexp.MustCompile(`Run /\S*/\S+ as init process`)
	initSpeaks = regexp.MustCompile(`^\s*(\[[ *]*(OK|\*+)[ *]*\]|Welcome to |systemd\[1\]:|\[ *[\d.]+\] systemd\[1\]:|INIT: |OpenRC |init started:)|\blogin: *$`)
	// escapes are what colours a line (ECMA-48, CSI).
	escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[a-zA-Z]")
)

// dead are the words after which a guest gets no further by itself, beside those
// of a panic.
var dead = []struct{ words, fault string }{
	{"(initramfs)", "its initrd found no root file system, and waits at a shell"},
	{"initramfs emergency recovery shell", "its initrd found no root file system, and waits at a shell"}, // Alpine's mkinitfs
	{"dracut:/#", "its initrd found no root file system, and waits at a shell"},
	{"You are in emergency mode", "its init gave up, and waits at an emergency shell"},
	{"Give root password for maintenance", "its init gave up, and waits at an emergency shell"},
	{"No bootable device", "its firmware found nothing to boot"},
}

// panicWords are how a kernel says that it has ended (panic() in kernel/panic.c).
const panicWords = "Kernel panic - not syncing"

// read takes a line, or what there is of it.
func (b *bootlog) read(line string, whole bool) {
	line = escapes.ReplaceAllString(strings.TrimRight(line, "\r"), "")
	switch {
	case initRuns.MatchString(line), initSpeaks.MatchString(line):
		b.at = max(b.at, rungInit)
	case kernelSpeaks.MatchString(line), kernelBegins.MatchString(line):
		b.at = max(b.at, rungKernel)
	}
	if whole && kernelBegins.MatchString(line) {
		if b.kernels++; b.kernels > maxKernels {
			b.fail("its kernel begins again and again")
		}
	}
	if at := strings.Index(line, panicWords); whole && at >= 0 {
		b.fail(strings.TrimSuffix(line[at:], " ]---"))
	}
	for _, d := range dead {
		if strings.Contains(line, d.words) {
			b.fail(d.fault)
		}
	}
}

// fail keeps the first fault: what follows comes of it.
func (b *bootlog) fail(fault string) {
	if b.fault == "" {
		b.fault = strings.TrimSpace(ui.Clean(fault))
	}
}
