package image

import (
	"meros/internal/hint"
	"meros/internal/proc"
)

// Tools are the host's programs that packing needs.
var Tools = []string{"mke2fs", "e2fsck", "sfdisk", "qemu-img"}

// CheckTools returns an error that wraps proc.ErrNotFound when one is missing.
func CheckTools() error {
	for _, tool := range Tools {
		if _, err := proc.Find(tool); err != nil {
			return hint.Add(err, "install it, or run ./dist-conf.sh")
		}
	}
	return nil
}

// Packers are those of Tools that have a say in what an image is like.
func Packers(compressed bool) []string {
	if compressed {
		return []string{"mke2fs", "sfdisk", "qemu-img"}
	}
	return []string{"mke2fs", "sfdisk"}
}
