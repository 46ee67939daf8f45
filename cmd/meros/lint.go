package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"meros/internal/family"
	"meros/internal/lint"
	"meros/internal/ui"
)

type lintOptions struct {
	family string
	output string // text or json
	strict bool   // findings fail the command
}

func newLintCmd(e *env) *cobra.Command {
	var o lintOptions
	cmd := &cobra.Command{
		Use:   "lint FAMILY",
		Short: "Look for what is valid in a recipe, and unwise",
		Long: `Look through a family's recipe for known passwords, unchecked downloads, rules that
take away everybody's, holes in what isolates its guests, and clashes with other
families. Each finding says where, why it matters and how to mend it. Findings do
not keep a family from running; with --strict they fail the command.
`,
		Example: `  meros lint mos_demo
  meros lint mos_demo --strict --output json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFamilies(e),
		RunE: func(_ *cobra.Command, args []string) error {
			o.family = args[0]
			return lintFamily(e, o)
		},
	}
	addOutputFlag(cmd, &o.output)
	cmd.Flags().BoolVar(&o.strict, "strict", false, "fail if anything is found")
	return cmd
}

var errFindings = errors.New("the recipe has findings")

func lintFamily(e *env, o lintOptions) error {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	if err := e.resolve(); err != nil {
		return err
	}
	f, err := family.Load(e.Paths, o.family)
	if err != nil {
		return err
	}
	names, err := family.List(e.Paths)
	if err != nil {
		return err
	}
	var others []*family.Family
	for _, name := range names {
		if other, err := family.Load(e.Paths, name); err == nil && name != f.Name {
			others = append(others, other)
		}
	}
	found, err := lint.Family(f, others)
	if err != nil {
		return fmt.Errorf("lint %s: %w", f.Name, err)
	}
	found = append(found, lint.Keys(e.Paths, f)...)
	if o.output == "json" {
		err = printJSON(e.Out, append([]lint.Finding{}, found...))
	} else {
		err = printFindings(e, f.Name, found)
	}
	if err == nil && o.strict && len(found) > 0 {
		err = fmt.Errorf("%s: %w", f.Name, errFindings)
	}
	return err
}

func printFindings(e *env, name string, found []lint.Finding) error {
	for _, f := range found {
		where := f.File
		if f.Line > 0 {
			where = fmt.Sprintf("%s:%d", f.File, f.Line)
		}
		fmt.Fprintf(e.Out, "%s: %s\n  why: %s\n  fix: %s\n", ui.Clean(where), ui.Clean(f.What), ui.Clean(f.Why), ui.Clean(f.Fix))
	}
	_, err := fmt.Fprintf(e.Out, "%s: %s\n", name, count(len(found), "finding"))
	return err
}
