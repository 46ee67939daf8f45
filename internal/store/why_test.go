package store_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"meros/internal/store"
)

func TestChangesNamesWhatChanged(t *testing.T) {
	before := store.NewKey("s").Add("below", "1").Add("packages", "less", "vim").Add("files", `"a" 1`, `"b" 1`).Add("pkg", "x").Pieces()
	now := store.NewKey("s").Add("below", "2").Add("packages", "less", "bc").Add("files", `"a" 2`, `"b" 1`, `"c" 1`).Pieces()
	want := []string{"files changed: a, +c", "packages changed: +bc, -vim", "pkg gone"}
	if diff := cmp.Diff(want, store.Changes(before, now, "below")); diff != "" {
		t.Errorf("Changes differs (-want +got):\n%s", diff)
	}
	if got := store.Changes(now, now, ""); got != nil {
		t.Errorf("Changes of nothing = %q, want none", got)
	}
}
