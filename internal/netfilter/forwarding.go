package netfilter

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Switches are what the host's forwarding hangs on: values below /proc/sys.
type Switches map[string]string

const (
	allForward = "net/ipv4/ip_forward"
	perLink    = "net/ipv4/conf/%s/forwarding"
)

// ReadSwitches reads them. ip_forward, when written, overwrites those of all
// links (ip-sysctl), so that each is noted.
func ReadSwitches() (Switches, error) {
	s := Switches{}
	files, err := filepath.Glob("/proc/sys/net/ipv*/conf/*/forwarding")
	if err != nil {
		return nil, err
	}
	for _, file := range append(files, "/proc/sys/"+allForward) {
		value, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a link that has just gone
		}
		if err != nil {
			return nil, fmt.Errorf("read how the host forwards: %w", err)
		}
		s[strings.TrimPrefix(file, "/proc/sys/")] = strings.TrimSpace(string(value))
	}
	return s, nil
}

// Restore puts back what differs. Links that are gone, and links that came since,
// are left alone.
func (s Switches) Restore() error {
	names := slices.Sorted(maps.Keys(s))
	// ip_forward first, since it writes the others; conf/all is the same switch.
	slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
	for _, name := range names {
		now, err := os.ReadFile("/proc/sys/" + name)
		if err != nil || strings.TrimSpace(string(now)) == s[name] {
			continue
		}
		if err := write(name, s[name]); err != nil {
			return err
		}
	}
	return nil
}

func rank(name string) int {
	switch {
	case name == allForward:
		return 0
	case strings.Contains(name, "/all/"):
		return 1
	case strings.Contains(name, "/default/"):
		return 2
	}
	return 3
}

// Forward has the host forward IPv4 that comes in at these links, and at no other.
func Forward(links []string) error {
	for _, link := range links {
		if err := write(fmt.Sprintf(perLink, link), "1"); err != nil {
			return err
		}
	}
	return nil
}

func write(name, value string) error {
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
		return fmt.Errorf("set how the host forwards: %w", err)
	}
	return nil
}

// All reports whether the host forwarded for all links.
func (s Switches) All() bool { return s[allForward] == "1" }
