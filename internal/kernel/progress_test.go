package kernel

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meros/internal/ui"
)

func TestProgressWords(t *testing.T) {
	var said bytes.Buffer
	p := newProgress(&ui.Streams{Err: &said}, 100, 500, false)
	clock := p.started
	p.now = func() time.Time { return clock }
	for range 100 {
		clock = clock.Add(time.Second)
		_, _ = p.Write([]byte("  CC      a/b.o\n  LD      x\n  A"))
		_, _ = p.Write([]byte("R      y.a\n"))
	}
	if got := p.end(); got != 200 {
		t.Errorf("%d files, want 100 from before and 100 more", got)
	}
	if got, want := p.words(clock), "compiling: 200 of about 500 files, 40 %, 5m left"; got != want {
		t.Errorf("words = %q, want %q", got, want)
	}
	if n := strings.Count(said.String(), "\n"); n != 3 || strings.Contains(said.String(), "\x1b") {
		t.Errorf("%d lines in 100 s, want 3 without escape codes:\n%s", n, &said)
	}
	p.older = true // how many of those that are there make takes, nobody knows
	if got, want := p.words(clock), "compiling: 200 files, at most about 300 more, at most 5m left"; got != want {
		t.Errorf("words = %q, want %q", got, want)
	}
	p.total = 10 // an estimate that was too low
	if got := p.words(clock); !strings.Contains(got, "200 files, more than the 10 that were expected") {
		t.Errorf("words past the estimate = %q", got)
	}
}

// Objects of an earlier configuration are not what a broken-off build has done.
func TestObjectsOfAnEarlierConfiguration(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	if err := os.MkdirAll(filepath.Join(dir, "scripts/kconfig"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{"scripts/kconfig/conf.o": 2, "a.o": 2, "b.o": 2, ".config": 1, "c.o": 1, "d.o": 0, "built-in.o": 0, "e.c": 0} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, now, now.Add(-age*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if current, older := objectsIn(dir); current != 3 || older != 2 {
		t.Errorf("objectsIn = %d, %d, want 3 of this configuration and 2 of an earlier one", current, older)
	}
}

func TestSignerOf(t *testing.T) {
	const primary = "647F28654894E3BD457199BE38DBBDC86092693E"
	good := "[GNUPG:] GOODSIG 38DBBDC86092693E x\n[GNUPG:] VALIDSIG AAAA 2026-01-01 1 0 4 0 1 10 00 " + primary + "\n"
	for status, want := range map[string]string{
		good:                               primary,
		"[GNUPG:] BADSIG 38DBBDC86092693E": "",
		"[GNUPG:] ERRSIG 38DBBDC86092693E 1 10 00 1 9 -\n[GNUPG:] NO_PUBKEY 38DBBDC86092693E\n": "",
		"gpg: VALIDSIG " + primary: "",
		"":                         "",
	} {
		if got := signerOf(status); got != want {
			t.Errorf("signerOf(%q) = %q, want %q", status, got, want)
		}
	}
}

func TestVersionLess(t *testing.T) {
	for _, pair := range [][2]string{{"linux-source-6.1.tar.xz", "linux-source-6.12.tar.xz"}, {"linux-source-5.15.0.tar.bz2", "linux-source-6.8.0.tar.bz2"}, {"linux-source-6.1", "linux-source-6.1.1"}} {
		if !versionLess(pair[0], pair[1]) || versionLess(pair[1], pair[0]) {
			t.Errorf("%s is not before %s", pair[0], pair[1])
		}
	}
}

func TestVersionOf(t *testing.T) {
	for image, want := range map[string]string{
		"":                            "",
		strings.Repeat("\x00", 0x400): "",
		strings.Repeat("\xff", 0x400): "",
		strings.Repeat("x", 0x202) + "HdrS" + strings.Repeat("\xff", 100): "",
	} {
		if got := versionOf([]byte(image)); got != want {
			t.Errorf("versionOf = %q, want %q", got, want)
		}
	}
}
