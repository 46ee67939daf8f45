package store_test

import (
	"os"
	"path/filepath"
	"testing"
)

// TestPowerCut stands in for one: to the next boot, nothing tells a layer that had
// reached the disk as a whole from one that had not, but its mark.
func TestPowerCut(t *testing.T) {
	for name, tt := range map[string]struct {
		settle bool
		mark   string // what the next boot finds in the mark; "-": as it was written
		whole  bool
	}{
		"same boot, not settled":           {false, "-", true},
		"settled":                          {true, "", true},
		"another boot, not settled":        {false, "5cbb8dc5-0000-4000-8000-000000000000", false},
		"another boot, the mark was empty": {false, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			s, root := open(t)
			if _, err := begin(t, s, "k").Commit(); err != nil {
				t.Fatal(err)
			}
			mark := filepath.Join(root, "data/build/cache/layers/k/unsettled")
			if tt.settle {
				if err := s.Settle(); err != nil {
					t.Fatal(err)
				}
				if _, err := os.Stat(mark); err == nil {
					t.Error("a settled layer is still marked")
				}
			} else if tt.mark != "-" {
				if err := os.WriteFile(mark, []byte(tt.mark), 0o644); err != nil {
					t.Fatal(err)
				}
				if err := s.Settle(); err != nil {
					t.Fatal(err)
				}
			}
			if _, ok := s.Layer("k"); ok != tt.whole {
				t.Errorf("the store takes the layer for whole: %v, want %v", ok, tt.whole)
			}
			if err := s.Sweep(); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Dir(mark)); (err == nil) != tt.whole {
				t.Errorf("after Sweep: %v, want it kept: %v", err, tt.whole)
			}
			// It can be made again.
			if _, err := begin(t, s, "k").Commit(); err != nil {
				t.Fatal(err)
			}
			if _, ok := s.Layer("k"); !ok {
				t.Error("a layer made anew is not in the store")
			}
		})
	}
}
