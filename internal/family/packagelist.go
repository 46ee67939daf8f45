package family

import (
	"path"
	"slices"
	"strings"
)

// packageList is a file of package-lists/: names of packages parted by blanks and
// line ends. What follows a # is a comment.
type packageList struct {
	file  *file
	names []listedName
}

type listedName struct {
	name string
	line int
}

// packageLists reads the *.list files of a folder, which need not be there.
func (l *loader) packageLists(folder string) []packageList {
	if !l.isDir(folder) {
		return nil
	}
	var lists []packageList
	for _, name := range l.named(folder, ".list") {
		f := l.file(name)
		if data, ok := l.readDocument(f, name); ok {
			lists = append(lists, parsePackageList(data, f))
		}
	}
	l.otherLists(folder)
	return lists
}

func parsePackageList(data []byte, f *file) packageList {
	list := packageList{file: f}
	line := 0
	for text := range strings.Lines(string(data)) {
		line++
		text, _, _ = strings.Cut(text, "#")
		for _, word := range strings.Fields(text) {
			list.names = append(list.names, listedName{word, line})
		}
	}
	return list
}

// otherLists faults what lies in package-lists/ and is no list: it would be
// passed over in silence.
func (l *loader) otherLists(folder string) {
	entries, _ := l.entries(folder)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".list") {
			l.file(path.Join(folder, e.Name())).fault(0, "", "is no list of packages: its name must end in .list")
		}
	}
}

// addTo adds the names, in the words of the target's distribution, to its packages.
func (p packageList) addTo(t *Target) {
	check := packageName(t.Distro)
	for _, listed := range p.names {
		switch _, err := check(listed.name); {
		case err != nil:
			p.file.fault(listed.line, "", "%v, got %s", err, show(listed.name))
		case !slices.Contains(t.Packages, listed.name):
			t.Packages = append(t.Packages, listed.name)
		}
	}
}
