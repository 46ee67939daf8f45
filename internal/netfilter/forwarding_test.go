package netfilter

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// switches spells those of a version: all, default, and the links a, b, c, in order.
func switches(version, values string) Switches {
	s := Switches{}
	for i, link := range []string{"all", "default", "a", "b", "c"} {
		if i < len(values) && values[i] != '-' {
			s[forwardingOf(version, link)] = values[i : i+1]
		}
	}
	return s
}

// TestOthers has somebody change what the host forwards while a family has it opened.
func TestOthers(t *testing.T) {
	for _, c := range []struct{ name, before, left, now, want string }{
		{"the first family", "", "", "0010", "0010"},
		{"nothing has changed", "0000", "0010", "0010", "0000"},
		{"docker has set ip_forward", "0000", "0010", "1111", "1111"},
		{"somebody has taken ip_forward back", "1111", "1111", "0000", "0000"},
		{"one link was opened", "0000", "0010", "0011", "0001"},
		{"one link was closed", "0011", "0011", "0010", "0010"},
		{"a link has come", "000", "001", "0010", "0000"},
		{"a link has come, and somebody opened it", "000", "001", "0011", "0001"},
		{"a link has come while libvirt had all open", "0000", "1111", "11111", "00000"},
		{"a link has gone", "0000", "0010", "001", "000"},
		{"libvirt has not done it yet", "0000", "1111", "0010", "0000"},
	} {
		for _, version := range []string{IPv4, IPv6} {
			got := switches(version, c.now).Others(switches(version, c.before), switches(version, c.left))
			if diff := cmp.Diff(switches(version, c.want), got); diff != "" {
				t.Errorf("%s, %s: Others differs (-want +got):\n%s", c.name, version, diff)
			}
		}
	}
}

// TestOpenLinks has all links forward and leaves ip_forward to others.
func TestOpenLinks(t *testing.T) {
	s := switches(IPv4, "0000")
	s[forwardingOf(IPv6, "a")] = "0"
	s.OpenLinks()
	want := switches(IPv4, "0111")
	want[forwardingOf(IPv6, "a")] = "0"
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("OpenLinks differs (-want +got):\n%s", diff)
	}
}
