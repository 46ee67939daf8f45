package session

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"meros/internal/ui"
)

// maxTable bounds what is read of a guest's table of sockets, in bytes: room for
// some ten thousand.
const maxTable = 2 << 20

// listening is the state of a socket that takes connections: the kernel's
// include/net/tcp_states.h, TCP_LISTEN.
const listening = "0A"

// Ports returns where TCP services of the guest listen, as the guest says, in
// order.
func Ports(ctx context.Context, c *Conn) ([]netip.AddrPort, error) {
	out := &limited{left: maxTable}
	argv := []string{"cat", "/proc/net/tcp", "/proc/net/tcp6"}
	err := Exec(ctx, c, &ui.Streams{Out: out, Err: io.Discard}, argv, ExecOptions{})
	// A guest without IPv6 has but the first table.
	if _, ok := errors.AsType[*ExitError](err); err != nil && !ok {
		return nil, fmt.Errorf("list the ports of %s: %w", c.fullID, err)
	}
	return parsePorts(out.String()), nil
}

// parsePorts takes proc_pid_net(5) tables apart. Lines that are none are passed
// over.
func parsePorts(table string) []netip.AddrPort {
	var ports []netip.AddrPort
	lines := bufio.NewScanner(strings.NewReader(table))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || fields[3] != listening {
			continue
		}
		if at, ok := parseSocket(fields[1]); ok {
			ports = append(ports, at)
		}
	}
	slices.SortFunc(ports, func(a, b netip.AddrPort) int {
		if a.Port() != b.Port() {
			return int(a.Port()) - int(b.Port())
		}
		return a.Addr().Compare(b.Addr())
	})
	return slices.Compact(ports)
}

// parseSocket reads an address as the kernel prints it: words of 32 bits in the
// machine's order, which is little-endian for all that meros runs.
func parseSocket(s string) (netip.AddrPort, bool) {
	addr, port, _ := strings.Cut(s, ":")
	number, err := strconv.ParseUint(port, 16, 16)
	raw, hexErr := hex.DecodeString(addr)
	if err != nil || hexErr != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.BigEndian.PutUint32(raw[i:], binary.LittleEndian.Uint32(raw[i:]))
	}
	ip, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(ip.Unmap(), uint16(number)), ok
}
