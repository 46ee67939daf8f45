package virt

import (
	"os"
	"strconv"
	"strings"

	"meros/internal/proc"
)

// Listeners are the TCP ports of the host on which somebody listens, with the inode
// of the socket.
type Listeners map[int]string

// ReadListeners asks the kernel who listens. What cannot be read is left to QEMU,
// which then says that the port is taken, but not by whom.
func ReadListeners() Listeners {
	l := Listeners{}
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		content, err := os.ReadFile(file)
		if err == nil {
			l.add(string(content))
		}
	}
	return l
}

// add reads a file like /proc/net/tcp: its second column is the own address and
// port, in hex, its fourth the state, its tenth the inode (proc(5)).
func (l Listeners) add(content string) {
	const listen = "0A" // TCP_LISTEN
	for line := range strings.Lines(content) {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != listen {
			continue
		}
		_, hex, _ := strings.Cut(f[1], ":")
		if port, err := strconv.ParseUint(hex, 16, 16); err == nil {
			l[int(port)] = f[9]
		}
	}
}

// owner names who listens on a port; "" if nobody does.
func (l Listeners) owner(port int) string {
	inode, ok := l[port]
	if !ok {
		return ""
	}
	if who := proc.Holder("socket:[" + inode + "]"); who != "" {
		return who
	}
	return "a program of this host" // of another user's, or the kernel's own
}
