package lifecycle

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"

	"meros/internal/family"
)

// recipeHash says in one word what a target runs as: its libvirt document and the
// image and kernel that it boots. "" where they cannot be read.
func (g Guests) recipeHash(t *family.Target) string {
	sum := sha256.New()
	content, err := os.ReadFile(t.DomainFile)
	if err != nil {
		return ""
	}
	fmt.Fprintf(sum, "%d\n%s", len(content), content)
	// An image is told by what it was made of: its content changes as it is used.
	if record, err := ReadImageRecord(g.Paths, t.FullID()); err == nil {
		fmt.Fprintf(sum, "%s\n%s\n%s\n", record.Key, record.Built, record.KernelVersion)
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}
