package netfilter

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"meros/internal/family"
	"meros/internal/hint"
)

// With adds a family's own .nft file, which may touch the family's tables only.
func (s Ruleset) With(file, text string, f *family.Family) (Ruleset, error) {
	pairs := []string{"$NETWORK_FULL_ID", "", "$TARGET_FULL_ID", ""}
	if len(f.Networks) == 1 {
		pairs[1] = f.Networks[0].FullID
	}
	if len(f.Targets) == 1 {
		pairs[3] = f.Targets[0].FullID()
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
		}
	}
	if err := checkOwn(text, s.Family); err != nil {
		return s, fmt.Errorf("%s: %w", filepath.Join("netfilter", filepath.Base(file)), err)
	}
	if s.Text == "" {
		for _, kind := range kinds {
			s.Text += fmt.Sprintf("table %s %s\ndelete table %s %s\n", kind, Table(s.Family), kind, Table(s.Family))
		}
	}
	s.Text += "\n# " + filepath.Base(file) + "\n" + text + "\n"
	return s, nil
}

// statement is a statement outside of all braces.
type statement struct {
	line  int
	words []string
}

// outer splits a text of nft's into its outermost statements, without what stands
// in braces, quotes and comments.
func outer(text string) []statement {
	var all []statement
	now := statement{line: 1}
	depth, line := 0, 1
	word := ""
	endWord := func() {
		if word != "" && depth == 0 {
			now.words = append(now.words, word)
		}
		word = ""
	}
	end := func() {
		endWord()
		if len(now.words) > 0 && depth == 0 {
			all = append(all, now)
			now = statement{}
		}
		now.line = line
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '#':
			for i+1 < len(text) && text[i+1] != '\n' {
				i++
			}
		case '"':
			word += `"`
			for i+1 < len(text) && text[i+1] != '"' {
				i++
			}
			i++
		case '\\':
			if i+1 < len(text) && text[i+1] == '\n' {
				i++
				line++
			}
			endWord()
		case '{':
			endWord()
			depth++
		case '}':
			endWord()
			depth--
		case '\n', ';':
			if c == '\n' {
				line++
			}
			end()
		case ' ', '\t', '\r':
			endWord()
		default:
			word += string(c)
		}
	}
	end()
	return all
}

var (
	verbs   = []string{"add", "create", "insert", "replace", "delete", "destroy", "flush", "reset", "rename"}
	objects = []string{"table", "chain", "rule", "set", "map", "element", "flowtable", "counter", "quota", "limit", "secmark", "synproxy"}
	defines = []string{"define", "redefine", "undefine"}
)

// checkOwn refuses what is about other tables than the family's.
func checkOwn(text, fam string) error {
	for _, s := range outer(text) {
		w := s.words
		if slices.Contains(defines, w[0]) {
			continue
		}
		if w[0] == "include" {
			return hint.Add(fmt.Errorf("line %d: include is not followed: what it brings could not be checked", s.line),
				"put the rules into a file of their own in netfilter/")
		}
		if slices.Contains(verbs, w[0]) && len(w) > 1 {
			w = w[1:]
		}
		if w[0] == "ruleset" {
			return hint.Add(fmt.Errorf("line %d: flush ruleset would take away the rules of everybody on this host", s.line),
				"leave it out: meros replaces the family's own tables by itself")
		}
		if !slices.Contains(objects, w[0]) || len(w) < 3 || !slices.Contains(kinds, w[1]) || w[2] != Table(fam) {
			return hint.Add(fmt.Errorf("line %d: %q is not about a table of the family", s.line, strings.Join(s.words, " ")),
				"use the tables inet %s and bridge %s, spelt out", Table(fam), Table(fam))
		}
	}
	return nil
}
