package layout

import (
	"fmt"
	"regexp"
	"strings"
)

// maxID bounds each half of a full id. Both halves, a prefix and a suffix still
// fit the 255 bytes of a file name (path_resolution(7)) and libvirt's socket paths.
const maxID = 32

var (
	familyID = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	// qemu-img takes a snapshot's number for its name too: a name is never a number.
	snapshotID = regexp.MustCompile(`^[a-z][a-z0-9_-]*$`)
	targetID   = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)
)

// CheckFamily reports why id cannot be a family's name: lower case letters,
// digits and _, a letter first, at most 32.
func CheckFamily(id string) error {
	return check("family", id, familyID, "lower-case letters, digits and _, a letter first")
}

// CheckTarget reports why id cannot be a target's name: lower case letters,
// digits, _ and -, at most 32.
func CheckTarget(id string) error {
	return check("target", id, targetID, "lower-case letters, digits, _ and -")
}

// CheckSnapshot reports why id cannot be a snapshot's name: lower case letters,
// digits, _ and -, a letter first, at most 32.
func CheckSnapshot(id string) error {
	return check("snapshot", id, snapshotID, "lower-case letters, digits, _ and -, a letter first")
}

func check(kind, id string, form *regexp.Regexp, words string) error {
	switch {
	case id == "":
		return fmt.Errorf("a %s's name is empty", kind)
	case len(id) > maxID:
		return fmt.Errorf("%q is no %s's name: %d characters, at most %d", id[:maxID]+"…", kind, len(id), maxID)
	case !form.MatchString(id):
		return fmt.Errorf("%q is no %s's name: it may have %s", id, kind, words)
	}
	return nil
}

// SplitFullID parts a full id at its first dash: mos_sec-guest is the target
// guest of the family mos_sec. Both parts are checked.
func SplitFullID(id string) (family, target string, err error) {
	family, target, ok := strings.Cut(id, "-")
	if !ok {
		return "", "", fmt.Errorf("%q is no target: want FAMILY-TARGET, such as mos_sec-guest", id)
	}
	if err := CheckFamily(family); err != nil {
		return "", "", err
	}
	return family, target, CheckTarget(target)
}
