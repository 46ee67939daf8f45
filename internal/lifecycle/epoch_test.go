package lifecycle

import "testing"

func TestEpoch(t *testing.T) {
	for value, want := range map[string]int64{"": 0, "1": 1, "1700000000": 1_700_000_000, "8000000000": 8_000_000_000} {
		b := Builder{Getenv: func(string) string { return value }}
		if got, err := b.epoch(); got != want || err != nil {
			t.Errorf("epoch of %q = %d, %v, want %d", value, got, err, want)
		}
	}
	for _, value := range []string{"0", "-1", "1e9", "2026-01-01", " 1", "99999999999999999999"} {
		b := Builder{Getenv: func(string) string { return value }}
		if got, err := b.epoch(); err == nil {
			t.Errorf("epoch of %q = %d, want an error", value, got)
		}
	}
}
