package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Holder names a process of the host that has something open, as "NAME, process
// PID": a file by its path, or a socket as socket:[INODE] (proc(5), /proc/PID/fd).
// It is "" where there is none, or none that the caller may look at.
func Holder(opened string) string {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || to != opened {
			continue
		}
		process := filepath.Dir(filepath.Dir(link))
		if name, err := os.ReadFile(filepath.Join(process, "comm")); err == nil {
			return fmt.Sprintf("%s, process %s", printable(string(name)), filepath.Base(process))
		}
	}
	return ""
}

// printable is a process's name without what drives a terminal: anybody may call a
// process anything.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f {
			return '?'
		}
		return r
	}, strings.TrimSpace(name))
}
