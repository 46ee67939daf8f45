package store

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Attribute is an extended attribute of a file (xattr(7)).
type Attribute struct {
	Name  string
	Value []byte
}

// maxAttribute bounds an attribute's value and the list of names, in bytes, as the
// kernel does (xattr(7)).
const maxAttribute = 64 << 10

// Attributes returns, in the order of their names, the extended attributes of a file
// that mean something inside a guest: capabilities, access lists and the user's own.
// They are what a key counts, and what is to be laid with the file.
func Attributes(path string) ([]Attribute, error) {
	names := make([]byte, maxAttribute)
	n, err := unix.Llistxattr(path, names)
	if err != nil || n == 0 {
		return nil, nil // a file system without any
	}
	var found []Attribute
	for name := range bytes.SplitSeq(names[:n], []byte{0}) {
		if !carried(string(name)) {
			continue
		}
		value := make([]byte, maxAttribute)
		size, err := unix.Lgetxattr(path, string(name), value)
		if errors.Is(err, unix.ENODATA) {
			continue // gone since
		}
		if err != nil {
			return nil, fmt.Errorf("%s: extended attribute %s: %w", path, name, err)
		}
		found = append(found, Attribute{string(name), value[:size]})
	}
	slices.SortFunc(found, func(a, b Attribute) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

func carried(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "system.posix_acl_")
}
