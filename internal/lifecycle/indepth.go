package lifecycle

import (
	"context"
	"fmt"
	"os"

	"meros/internal/family"
)

// What an image is to its recipe.
const (
	RecipeSame    = "same"
	RecipeChanged = "changed" // a build would make another image
	RecipeUnknown = "unknown" // it was brought, or the recipe's files cannot be read
)

// againstRecipe says what a target's image is to its recipe, as `build --plan`
// would with the kernel that the image has: one call's --kernel makes no older
// image. It makes nothing.
func (g Guests) againstRecipe(ctx context.Context, t *family.Target) string {
	record, err := ReadImageRecord(g.Paths, t.FullID())
	if err != nil || record.Key == "" || !t.Rootfs {
		return RecipeUnknown
	}
	asBuilt := *t
	asBuilt.Kernel = kernelMode(g.Paths, t)
	w, err := Builder{Streams: g.Streams, Runner: g.Runner, Paths: g.Paths, Getenv: g.Getenv}.newWork(ctx, &asBuilt)
	switch {
	case err != nil:
		return RecipeUnknown
	case w.upToDate():
		return RecipeSame
	}
	return RecipeChanged
}

// written is how much of the disk a file takes, in bytes; 0 if it is not there.
func written(file string) int64 {
	stat, err := os.Stat(file)
	if err != nil {
		return 0
	}
	return stat.Size()
}

// policyOf words what a family's policy allows a target, a line each.
func policyOf(f *family.Family, t *family.Target) []string {
	if f.Policy == nil {
		return nil
	}
	lines := []string{}
	for _, a := range f.Policy.Allows {
		if a.From != t.Name && a.To != t.Name && a.Via != t.Name {
			continue
		}
		line := fmt.Sprintf("%s → %s", a.From, a.To)
		if a.Via != "" {
			line += " by way of " + a.Via
		}
		lines = append(lines, line+": "+a.Traffic())
	}
	return lines
}
