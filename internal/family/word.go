package family

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// maxShown bounds a word that is quoted in a fault, in runes, and maxListed how
// many names one fault lists: both come from files of any size.
const (
	maxShown  = 60
	maxListed = 24
)

// show quotes a value of a recipe so that it fits a line.
func show(s string) string {
	if runes := []rune(s); len(runes) > maxShown {
		return strconv.Quote(string(runes[:maxShown])) + "…"
	}
	return strconv.Quote(s)
}

// printable is a path as it is, or quoted when it would break the line.
func printable(path string) string {
	if strings.IndexFunc(path, unicode.IsControl) >= 0 {
		return strconv.Quote(path)
	}
	return path
}

// list joins names for a sentence: the first of them, and how many more.
func list(names []string) string {
	if more := len(names) - maxListed; more > 0 {
		return strings.Join(names[:maxListed], ", ") + " and " + strconv.Itoa(more) + " more"
	}
	return strings.Join(names, ", ")
}

// suggestion ends a fault about a word that is not known.
func suggestion(word string, known []string) string {
	if near, ok := nearest(word, known); ok {
		return "the nearest known is " + near
	}
	if len(known) == 0 {
		return "none belongs here"
	}
	return "known are " + list(known)
}

// nearest returns the known word with the fewest edits from word, if that is at
// most half of word's length.
func nearest(word string, known []string) (string, bool) {
	if len(word) > 2*maxShown {
		return "", false
	}
	best, at := "", len(word)/2+1
	for _, k := range known {
		if d := distance(word, k); d < at {
			best, at = k, d
		}
	}
	return best, best != ""
}

// Nearest returns up to n of the known words, those with the fewest edits from
// word first, none with more than a third of word's length, and at least two.
func Nearest(word string, known []string, n int) []string {
	if len(word) > 2*maxShown {
		return nil
	}
	edits := map[string]int{}
	var near []string
	for _, k := range known {
		if apart := len(k) - len(word); apart > allowedEdits(word) || -apart > allowedEdits(word) {
			continue
		}
		if edits[k] = distance(word, k); edits[k] <= allowedEdits(word) {
			near = append(near, k)
		}
	}
	slices.SortFunc(near, func(a, b string) int {
		return cmp.Or(edits[a]-edits[b], strings.Compare(a, b))
	})
	near = slices.Compact(near)
	return near[:min(n, len(near))]
}

func allowedEdits(word string) int { return max(2, len(word)/3) }

// misspelt returns the known word that word was meant to be. It is stricter than
// nearest, because what it finds is an error and not advice: one edit, or two in
// words of six letters and more (tools is not hooks).
func misspelt(word string, known []string) (string, bool) {
	near, ok := nearest(word, known)
	if !ok || near == word {
		return "", false
	}
	allowed := 1
	if len(near) >= 6 {
		allowed = 2
	}
	return near, distance(word, near) <= allowed
}

// distance counts the letters to insert, drop, replace or swap with their
// neighbour (optimal string alignment) to make a into b.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
