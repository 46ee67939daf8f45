package lifecycle

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"meros/internal/layout"
)

func TestBootlog(t *testing.T) {
	const kernel = "[    0.000000] Linux version 6.1.0 (gcc) #1 SMP\r\n[    0.1] noise\r\n"
	for console, want := range map[string]struct {
		at    rung
		fault string
	}{
		"":                                      {0, ""},
		"SeaBIOS (version x)\n":                 {0, ""},
		kernel:                                  {rungKernel, ""},
		"[   46.152841] reboot: Power down\r\n": {rungKernel, ""},
		kernel + "[    1.5] Run /init as init process\r\n":                                                           {rungKernel, ""}, // the initrd's
		kernel + "[    1.5] Run /sbin/init as init process\r\n":                                                      {rungInit, ""},
		"Welcome to \x1b[1mDebian GNU/Linux 12\x1b[0m!\r\n":                                                          {rungInit, ""},
		"[\x1b[0;32m  OK  \x1b[0m] Reached target basic.target":                                                      {rungInit, ""},
		"\r\nDebian GNU/Linux 12 box ttyS0\r\n\r\nbox login: ":                                                       {rungInit, ""},
		"OpenRC 0.54 is starting up Linux 6.6.\r\n":                                                                  {rungInit, ""},
		"words of Welcome to nothing in mid-line\n":                                                                  {0, ""},
		"Gave up waiting.\r\nDropping to a shell!\r\n(initramfs) ":                                                   {0, "its initrd found no root file system, and waits at a shell"},
		" * Mounting root: failed.\r\ninitramfs emergency recovery shell launched. Type 'exit' to continue boot\r\n": {0, "its initrd found no root file system, and waits at a shell"},
		"Launching initramfs emergency recovery shell.\r\n":                                                          {0, "its initrd found no root file system, and waits at a shell"},
		"You are in emergency mode. After logging in\r\n":                                                            {0, "its init gave up, and waits at an emergency shell"},
		"No bootable device.\r\n":                                                                                    {0, "its firmware found nothing to boot"},
		strings.Repeat(kernel, 3):                                                                                    {rungKernel, ""},
		strings.Repeat(kernel, 4):                                                                                    {rungKernel, "its kernel begins again and again"},
		kernel + "[    1.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r\n[    1.1] CPU: 0\r\n": {rungKernel, "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"},
		"---[ end Kernel panic - not syncing: Fatal exception ]---\r\n":                                                             {0, "Kernel panic - not syncing: Fatal exception"},
		"Kernel panic - not syncing: \x1b]0;x\x07red\n":                                                                             {0, `Kernel panic - not syncing: \x1b]0;x\x07red`},
		strings.Repeat("x", 3*maxLine) + panicWords + ": far\n":                                                                     {0, ""},
	} {
		var whole, bytewise bootlog
		whole.Write([]byte(console))
		for i := range console {
			bytewise.Write([]byte(console)[i : i+1])
		}
		if whole.at != want.at || whole.fault != want.fault {
			t.Errorf("%q: %q, %q, want %q, %q", console, whole.at, whole.fault, want.at, want.fault)
		}
		if bytewise.at != want.at || bytewise.fault != want.fault {
			t.Errorf("%q byte by byte: %q, %q, want %q, %q", console, bytewise.at, bytewise.fault, want.at, want.fault)
		}
	}
}

// FuzzBootlog gives it what a hostile guest may print.
func FuzzBootlog(f *testing.F) {
	f.Add([]byte("[    0.000000] Linux version 6.1\nKernel panic - not syncing: \x1b[31m\xff ]---\n"), 7)
	f.Add([]byte("(initramfs) \x00\r\n login: "), 1)
	f.Fuzz(func(t *testing.T, printed []byte, at int) {
		var b bootlog
		at = max(0, min(at, len(printed)))
		for _, part := range [][]byte{printed[:at], printed[at:]} {
			if n, err := b.Write(part); n != len(part) || err != nil {
				t.Errorf("Write = %d, %v", n, err)
			}
		}
		if len(b.line) > maxLine || b.at > rungInit {
			t.Errorf("%d bytes of a line are kept, the rung is %d", len(b.line), b.at)
		}
		if strings.ContainsAny(b.fault, "\x1b\n\r\x00") || !utf8.ValidString(b.fault) || len(b.fault) > 4*maxLine {
			t.Errorf("the fault %q could drive a terminal", b.fault)
		}
	})
}

// TestFollower follows a log over a change of files, as libvirt's log daemon makes
// them.
func TestFollower(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	f := &follower{file: file}
	var got bytes.Buffer
	put := func(text string) {
		log, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		log.WriteString(text)
		log.Close()
	}
	f.read(&got) // nothing there
	put("one ")
	f.read(&got)
	f.read(&got)
	put("two ")
	if err := os.Rename(file, file+".0"); err != nil {
		t.Fatal(err)
	}
	put("three ")
	f.read(&got)
	if want := "one two three "; got.String() != want {
		t.Errorf("read %q, want %q", &got, want)
	}
	got.Reset()
	put(strings.Repeat("x", 3*consoleBytes) + "end")
	f.read(&got)
	if got.Len() != consoleBytes || !strings.HasSuffix(got.String(), "end") {
		t.Errorf("of a flood it read %d bytes", got.Len())
	}
}

func TestConsoleLogsAreKeptAndBounded(t *testing.T) {
	g := Guests{Paths: layout.Paths{Root: t.TempDir()}}
	const id = "mos_a-b"
	last := consoleLog(g.Paths, id)
	for start := range 7 {
		if err := g.freshConsoleLog(id); err != nil {
			t.Fatal(err)
		}
		if start == 5 {
			continue // prints nothing
		}
		for _, file := range []string{last, last + ".0", last + ".1"} {
			if err := os.WriteFile(file, []byte{byte('0' + start)}, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for file, want := range map[string]string{last: "6", earlierLog(g.Paths, id, 1): "4", earlierLog(g.Paths, id, 2): "3", earlierLog(g.Paths, id, 3): "2"} {
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s = %q, %v, want that of start %s", filepath.Base(file), got, err, want)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(filepath.Dir(last), "*")); len(files) != 6 {
		t.Errorf("there are %q, want the last with its two older parts and three earlier ones", files)
	}
	names, err := g.Paths.Logs()
	if err != nil || len(names) != 4 || layout.CheckLog(names[0]) != nil {
		t.Errorf("Logs = %q, %v", names, err)
	}
}
