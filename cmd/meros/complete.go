package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"meros/internal/family"
)

// completeFamilies offers family names for a first argument. Whatever is wrong
// offers nothing: a completion has no way to speak.
func completeFamilies(e *env) cobra.CompletionFunc {
	return completeFirst(e, func(names []string) []string { return names })
}

// completeFamilyTargets offers a family, and then names of its targets.
func completeFamilyTargets(e *env) cobra.CompletionFunc {
	families := completeFamilies(e)
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 0 || e.resolve() != nil {
			return families(cmd, args, typed)
		}
		f, err := family.Load(e.Paths, args[0])
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, t := range f.Targets {
			if !slices.Contains(args[1:], t.Name) {
				names = append(names, t.Name)
			}
		}
		return beginning(names, typed), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeTargetFiles offers full ids for a first argument, and then files.
func completeTargetFiles(e *env) cobra.CompletionFunc {
	targets := completeTargets(e)
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return targets(cmd, args, typed)
	}
}

// completeWords offers the words that a flag takes. The flag is there, which is
// all that could go wrong.
func completeWords(cmd *cobra.Command, flag string, words ...cobra.Completion) {
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// completeLogs offers the names of logs.
func completeLogs(e *env) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 || e.resolve() != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, _ := e.Paths.Logs()
		return beginning(names, typed), cobra.ShellCompDirectiveNoFileComp
	}
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
		return beginning(of(names), typed), cobra.ShellCompDirectiveNoFileComp
	}
}

// beginning is those of words that begin with what is typed.
func beginning(words []string, typed string) []cobra.Completion {
	var found []cobra.Completion
	for _, word := range words {
		if strings.HasPrefix(word, typed) {
			found = append(found, word)
		}
	}
	return found
}
