package graph

import (
	"os"
	"testing"

	"meros/internal/family"
	"meros/internal/layout"
)

// TestDocsShowTheRecipe keeps the picture in the docs that of the recipe.
func TestDocsShowTheRecipe(t *testing.T) {
	f, err := family.Load(layout.Paths{Root: "../.."}, "mos_sec")
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(f)
	if err != nil {
		t.Fatal(err)
	}
	if shown, err := os.ReadFile("../../docs/mos_sec.svg"); err != nil || string(shown) != g.SVG() {
		t.Errorf("docs/mos_sec.svg is not of this recipe (%v): meros graph mos_sec >docs/mos_sec.svg", err)
	}
}
