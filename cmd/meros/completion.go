package main

import (
	"strings"

	"github.com/spf13/cobra"

	"meros/internal/family"
)

// completeFamilies offers family names for a first argument. Whatever is wrong
// offers nothing: a completion has no way to speak.
func completeFamilies(e *env) cobra.CompletionFunc {
	return completeFirst(e, func(names []string) []string { return names })
}

// completeTargets offers full ids for a first argument, of the families whose
// recipes have no fault.
func completeTargets(e *env) cobra.CompletionFunc {
	return completeFirst(e, func(names []string) []string {
		var ids []string
		for _, name := range names {
			f, err := family.Load(e.Paths, name)
			if err != nil {
				continue
			}
			for _, t := range f.Targets {
				ids = append(ids, t.FullID())
			}
		}
		return ids
	})
}

// completeFirst offers what of makes of the family names, as far as it begins
// with what is typed, and never files.
func completeFirst(e *env, of func(families []string) []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 || e.resolve() != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, err := family.List(e.Paths)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var found []cobra.Completion
		for _, word := range of(names) {
			if strings.HasPrefix(word, typed) {
				found = append(found, word)
			}
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}
