package store

import (
	"slices"
	"strings"
)

// maxNames bounds how many changed things are named.
const maxNames = 3

// Changes says in words how what a stage reads now differs from what it read
// before: a line a label. The label skip is passed over.
func Changes(before, now []Piece, skip string) []string {
	var words []string
	old := byLabel(before)
	for label, values := range byLabel(now) {
		if label != skip && !slices.Equal(old[label], values) {
			words = append(words, label+" changed"+nameChanged(old[label], values))
		}
	}
	for label := range old {
		if _, still := byLabel(now)[label]; !still && label != skip {
			words = append(words, label+" gone")
		}
	}
	slices.Sort(words)
	return words
}

// byLabel joins the pieces of one label.
func byLabel(pieces []Piece) map[string][]string {
	m := map[string][]string{}
	for _, p := range pieces {
		m[p.Label] = append(m[p.Label], p.Values...)
	}
	return m
}

func nameChanged(before, now []string) string {
	var names []string
	for sign, pair := range map[string][2][]string{"+": {now, before}, "-": {before, now}} {
		for _, v := range pair[0] {
			if v != "" && !slices.Contains(pair[1], v) {
				names = append(names, sign+subject(v))
			}
		}
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(a[1:]+a[:1], b[1:]+b[:1]) })
	names = mergeEdits(names)
	if len(names) > maxNames {
		names = append(names[:maxNames], "…")
	}
	if len(names) == 0 {
		return ""
	}
	return ": " + strings.Join(names, ", ")
}

// subject is the name in a line of a tree, which starts with it in quotes; any
// other value is its own.
func subject(value string) string {
	if rest, ok := strings.CutPrefix(value, `"`); ok {
		if name, _, ok := strings.Cut(rest, `" `); ok {
			return name
		}
	}
	return value
}

// mergeEdits makes one of a name that went and came: it was changed.
func mergeEdits(names []string) []string {
	var merged []string
	for _, n := range names {
		if last := len(merged) - 1; last >= 0 && merged[last][1:] == n[1:] && merged[last][0] != n[0] {
			merged[last] = n[1:]
			continue
		}
		merged = append(merged, n)
	}
	return merged
}
