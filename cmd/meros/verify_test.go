package main

import (
	"testing"

	"meros/internal/lifecycle"
	"meros/internal/netfilter"
)

func TestVerified(t *testing.T) {
	held := lifecycle.Verification{Family: "f", Filter: lifecycle.FilterOK, Notes: []string{"nobody outside was asked"}}
	partly, leaks := held, held
	partly.Untried = []string{"f-a does not run"}
	leaks.Leaks = []netfilter.Leak{{}}
	for name, c := range map[string]struct {
		v       lifecycle.Verification
		partial bool
		want    string
	}{
		"held":             {held, false, ""},
		"one is down":      {partly, false, "f: the policy holds as far as it was tried, which is not all of it: f-a does not run"},
		"one may be down":  {partly, true, ""},
		"a leak":           {leaks, false, "f: the policy does not hold"},
		"a leak of a part": {leaks, true, "f: the policy does not hold"},
	} {
		got := ""
		if err := verified(c.v, c.partial); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
