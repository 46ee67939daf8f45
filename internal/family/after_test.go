package family_test

import (
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/family"
	"meros/internal/layout"
)

// loadAfter reads a family whose targets start after others: name to names.
func loadAfter(t *testing.T, after map[string]string) (*family.Family, error) {
	t.Helper()
	paths := layout.Paths{Root: t.TempDir()}
	for name, others := range after {
		build := `<target><build id="` + name + `"/></target>`
		if others != "none" {
			build = `<target><build id="` + name + `" after="` + others + `"/></target>`
		}
		if err := paths.WriteFile(filepath.Join(paths.Family("f"), "build", name+".xml"), []byte(build), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return family.Load(paths, "f")
}

func TestRank(t *testing.T) {
	f, err := loadAfter(t, map[string]string{"a": "none", "b": "a", "c": "a b", "d": "none"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"a": 0, "b": 1, "c": 2, "d": 0} {
		if got := f.Rank(f.Target(name)); got != want {
			t.Errorf("Rank(%s) = %d, want %d", name, got, want)
		}
	}
}

func TestAfterFaults(t *testing.T) {
	for _, c := range []struct {
		after map[string]string
		want  string
	}{
		{map[string]string{"a": "a"}, "a cannot start after itself"},
		{map[string]string{"gate": "none", "b": "gaet"}, `the family has no target "gaet": the nearest known is gate`},
		{map[string]string{"a": "b", "b": "c", "c": "a"}, "starts after"},
		{map[string]string{"a": " "}, "must name targets"},
	} {
		_, err := loadAfter(t, c.after)
		if err == nil || !strings.Contains(err.Error(), "build: after: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want it to say %q", c.after, err, c.want)
		}
	}
}
