package family

import (
	"fmt"
	"slices"
	"strings"
)

// after takes names of targets parted by blanks; which there are is not known yet.
func after(s string) ([]string, error) {
	names := strings.Fields(s)
	if len(names) == 0 {
		return nil, fmt.Errorf("must name targets of the family")
	}
	return names, nil
}

// order checks what targets are started after.
func (l *loader) order(files []*buildFile) {
	for _, b := range files {
		t := b.target
		a, _ := b.elements["build"].attr("after")
		for _, name := range t.After {
			switch {
			case name == t.Name:
				b.file.fault(a.line, "build: after", "%s cannot start after itself", name)
			case l.family.Target(name) == nil:
				var names []string
				for _, t := range l.family.Targets {
					names = append(names, t.Name)
				}
				b.file.fault(a.line, "build: after", "the family has no target %s: %s", show(name), suggestion(name, names))
			case l.family.follows(name, t.Name, nil):
				b.file.fault(a.line, "build: after", "%s starts after %s itself", name, t.Name)
			}
		}
	}
}

// follows reports whether a target starts after another, be it by way of others.
func (f *Family) follows(name, other string, seen []string) bool {
	t := f.Target(name)
	if t == nil || slices.Contains(seen, name) {
		return false
	}
	return slices.ContainsFunc(t.After, func(before string) bool {
		return before == other || f.follows(before, other, append(seen, name))
	})
}

// Rank is the place of a target in the order of the family's starts: 0 for one that
// starts after no other, and else one more than the last of those it starts after.
func (f *Family) Rank(t *Target) int {
	rank := 0
	for _, name := range t.After {
		if before := f.Target(name); before != nil {
			rank = max(rank, f.Rank(before)+1)
		}
	}
	return rank
}
