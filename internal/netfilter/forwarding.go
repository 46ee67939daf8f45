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

// The IP versions, as the kernel's switches name them.
const (
	IPv4 = "ipv4"
	IPv6 = "ipv6"
)

// Switches are what the host's forwarding hangs on: values below /proc/sys, by
// name. There is one for each link and IP version; that of "all" is ip_forward
// under another name and overwrites the others when it is written, that of
// "default" is what links get that come (ip-sysctl).
type Switches map[string]string

func forwardingOf(version, link string) string {
	return "net/" + version + "/conf/" + link + "/forwarding"
}

// ReadSwitches reads them.
func ReadSwitches() (Switches, error) {
	s := Switches{}
	files, err := filepath.Glob("/proc/sys/" + forwardingOf("ipv[46]", "*"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
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

// Others returns what the switches, which are read just now, would be without us:
// before, where they still are as we left them, else what somebody has set since.
func (s Switches) Others(before, left Switches) Switches {
	others := Switches{}
	for name, value := range s {
		version := strings.Split(name, "/")[1]
		was := func(then Switches) string {
			if v, ok := then[name]; ok {
				return v
			}
			return then[forwardingOf(version, "default")] // it has come since
		}
		// Whoever writes the switch of all has set every link, those we opened too.
		all := forwardingOf(version, "all")
		overwritten := s[all] != left[all] && value == s[all]
		if value == was(left) && !overwritten {
			value = was(before)
		}
		others[name] = value
	}
	return others
}

// Forwards reports whether the host passes on the IPv4 that comes in at a link.
func (s Switches) Forwards(link string) bool { return s[forwardingOf(IPv4, link)] == "1" }

// Open has the host pass on the IPv4 that comes in at these links, as far as they
// are there.
func (s Switches) Open(links ...string) {
	for _, link := range links {
		if name := forwardingOf(IPv4, link); s[name] != "" {
			s[name] = "1"
		}
	}
}

// OpenAll has it pass on all of an IP version, as libvirt does for a network with
// <forward>.
func (s Switches) OpenAll(version string) {
	for name := range s {
		if strings.HasPrefix(name, "net/"+version+"/") {
			s[name] = "1"
		}
	}
}

// OpenLinks does the same for IPv4 and leaves ip_forward as it is: a link forwards
// by its own switch, and whoever writes ip_forward meanwhile is told from us.
func (s Switches) OpenLinks() {
	all := forwardingOf(IPv4, "all")
	was := s[all]
	s.OpenAll(IPv4)
	s[all] = was
}

// Set writes those that differ. Links that are gone, and links that came since, are
// left alone.
func (s Switches) Set() error {
	names := slices.Sorted(maps.Keys(s))
	// That of all first, since it writes the others.
	slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
	for _, name := range names {
		now, err := os.ReadFile("/proc/sys/" + name)
		if err == nil && strings.TrimSpace(string(now)) != s[name] {
			err = os.WriteFile("/proc/sys/"+name, []byte(s[name]), 0)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set how the host forwards: %w", err)
		}
	}
	return nil
}

func rank(name string) int {
	switch {
	case strings.Contains(name, "/all/"):
		return 0
	case strings.Contains(name, "/default/"):
		return 1
	}
	return 2
}
