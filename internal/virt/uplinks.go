package virt

import (
	"os"
	"slices"
	"strings"
)

// Uplinks returns the links that the host's default routes leave by.
func Uplinks() []string {
	content, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return nil
	}
	var links []string
	for line := range strings.Lines(string(content)) {
		f := strings.Fields(line)
		if r, ok := parseRoute4(f); ok && r.Subnet.Bits() == 0 && !slices.Contains(links, r.Link) {
			links = append(links, r.Link)
		}
	}
	return links
}
