package session

import (
	"errors"
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxName  = 255  // bytes of a file name: path_resolution(7), NAME_MAX
	maxPath  = 3000 // bytes of a path below the shared folder; leaves room for the folder's own in PATH_MAX
	maxDepth = 64   // folders in folders
)

// checkName reports why a guest's name for a file cannot be one on the host.
// Any UTF-8 without control characters will do, spaces and leading dashes too.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("empty name")
	case name == "." || name == "..":
		return errors.New("name of a folder above")
	case len(name) > maxName:
		return errors.New("name of more than 255 bytes")
	case strings.Contains(name, "/"):
		return errors.New("slash in the name")
	case !utf8.ValidString(name):
		return errors.New("name is not UTF-8")
	case strings.IndexFunc(name, unicode.IsControl) >= 0:
		return errors.New("control character in the name")
	}
	return nil
}

// checkLink reports why a link at rel, a path below the shared folder, may not
// point to target. A link stays below that folder: it is relative, climbs only
// before it descends, and no higher than the folder. Climbing after a descent
// could leave the tree by way of another link.
func checkLink(rel, target string) error {
	switch {
	case target == "":
		return errors.New("link to nowhere")
	case len(target) > maxPath:
		return errors.New("link of more than 3000 bytes")
	case strings.HasPrefix(target, "/"):
		return errors.New("absolute link")
	case !utf8.ValidString(target) || strings.IndexFunc(target, unicode.IsControl) >= 0:
		return errors.New("link with characters that no name has")
	}
	depth, descended := strings.Count(path.Clean(rel), "/"), false
	for part := range strings.SplitSeq(target, "/") {
		switch {
		case part == "" || part == ".":
		case part != "..":
			descended = true
		case descended:
			return errors.New("link that climbs after it descends")
		default:
			depth--
		}
	}
	if depth < 0 {
		return errors.New("link out of the folder")
	}
	return nil
}

var partialForm = regexp.MustCompile(`^\.meros-[0-9A-Za-z-]{1,40}\.partial$`)

// isPartial reports whether a name is one that a push gives to what is not whole.
func isPartial(name string) bool { return partialForm.MatchString(name) }

// inLine returns a path fit for the end of a line, as it stands or else quoted, so
// that no other path looks the same and none is two lines.
func inLine(rel string) string {
	if quoted := strconv.Quote(rel); quoted != `"`+rel+`"` {
		return quoted
	}
	return rel
}

// shown returns a guest's name fit for a sentence: quoted, of bounded length.
func shown(name string) string {
	if len(name) > maxWords {
		return strconv.Quote(name[:maxWords]) + "…"
	}
	return strconv.Quote(name)
}
