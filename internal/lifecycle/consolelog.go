package lifecycle

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"meros/internal/layout"
	"meros/internal/ui"
)

const (
	consoleSuffix = ".console"
	// keptBoots is how many earlier starts' console logs are kept beside the last.
	keptBoots = 3
	// consoleTail is how many lines of a guest's console an error shows.
	consoleTail = 15
	// consoleBytes bounds what is read for them.
	consoleBytes = 64 << 10
)

func consoleLog(p layout.Paths, fullID string) string { return p.Log(fullID + consoleSuffix) }

// earlierLog is the console log of the nth start before the last.
func earlierLog(p layout.Paths, fullID string, n int) string {
	return p.Log(fullID + consoleSuffix + "." + strconv.Itoa(n))
}

// freshConsoleLog makes the file that libvirt adds to, so that it is the person's
// own, and sets those of earlier starts aside. libvirt's log daemon bounds each:
// after 2 MiB it goes on in a new file and numbers the older ones (virtlogd.conf:
// max_size, max_backups). Of an earlier start only the last part is kept.
func (g Guests) freshConsoleLog(fullID string) error {
	err := g.setLogsAside(fullID)
	if err == nil {
		var f *os.File
		if f, err = g.Paths.OpenLog(fullID + consoleSuffix); err == nil {
			return f.Close()
		}
	}
	return fmt.Errorf("start %s: make its console log: %w", fullID, err)
}

func (g Guests) setLogsAside(fullID string) error {
	last := consoleLog(g.Paths, fullID)
	parts, err := filepath.Glob(last + ".[0-9]*")
	if err != nil {
		return err
	}
	if err := removeAll(parts...); err != nil {
		return err
	}
	// A start that printed nothing tells nothing.
	if info, err := os.Stat(last); err != nil || info.Size() == 0 {
		return removeAll(last)
	}
	return g.Paths.SetLogAside(fullID+consoleSuffix, keptBoots)
}

// follower reads a console log as it grows, also when libvirt's log daemon goes
// on in a new file.
type follower struct {
	file string
	open fs.FileInfo // the file that was read last
	at   int64       // how much of it
}

// read gives what is new to w. A guest that prints faster than it is read has
// some of it skipped.
func (f *follower) read(w io.Writer) {
	now, err := os.Stat(f.file)
	if err != nil {
		return // no console is no fault of the guest's
	}
	if f.open != nil && !os.SameFile(f.open, now) {
		if older, err := os.Stat(f.file + ".0"); err == nil && os.SameFile(f.open, older) {
			f.copy(f.file+".0", older.Size(), w)
		}
		f.at = 0
	}
	f.open = now
	f.copy(f.file, now.Size(), w)
}

func (f *follower) copy(file string, size int64, w io.Writer) {
	opened, err := os.Open(file)
	if err != nil {
		return
	}
	defer opened.Close()
	f.at = max(f.at, size-consoleBytes)
	n, _ := io.Copy(w, io.NewSectionReader(opened, f.at, size-f.at))
	f.at += n
}

// withConsole adds the last lines that a guest wrote to its console.
func (g Guests) withConsole(fullID string, err error) error {
	file := consoleLog(g.Paths, fullID)
	var tail strings.Builder
	for _, part := range []string{file + ".0", file} {
		(&follower{file: part}).read(&tail)
	}
	lines := ui.LastLines(tail.String(), consoleTail)
	if len(lines) == 0 {
		return err
	}
	text := "\nthe last lines of its console, all of which is in " + file + ":"
	for _, line := range lines {
		text += "\n  " + ui.Clean(strings.ReplaceAll(line, "\r", ""))
	}
	return fmt.Errorf("%w%s", err, text)
}
