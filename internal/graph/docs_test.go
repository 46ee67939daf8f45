package graph

import (
	"os"
	"testing"

	"meros/internal/family"
	"meros/internal/layout"
)

// TestDocsShowTheRecipe keeps the pictures in the docs those of the recipes.
func TestDocsShowTheRecipe(t *testing.T) {
	for _, name := range []string{"mos_sec", "mos_lab"} {
		f, err := family.Load(layout.Paths{Root: "../.."}, name)
		if err != nil {
			t.Fatal(err)
		}
		g, err := New(f)
		if err != nil {
			t.Fatal(err)
		}
		if shown, err := os.ReadFile("../../docs/" + name + ".svg"); err != nil || string(shown) != g.SVG() {
			t.Errorf("docs/%s.svg is not of this recipe (%v): meros graph %[1]s >docs/%[1]s.svg", name, err)
		}
	}
}
