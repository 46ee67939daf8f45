package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"meros/internal/family"
)

type validateOptions struct {
	family string
	output string // text or json
}

func newValidateCmd(e *env) *cobra.Command {
	var o validateOptions
	cmd := &cobra.Command{
		Use:        "validate FAMILY",
		Short:      "Check a family's recipe without doing anything",
		SuggestFor: []string{"check", "lint"},
		Long: `Check the recipe of a family, conf/target/FAMILY/, and report all of its faults
at once, each with file and line. Nothing is built, started or changed.
`,
		Example: `  meros validate mos_demo
  meros validate mos_demo --output json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFamilies(e),
		RunE: func(_ *cobra.Command, args []string) error {
			o.family = args[0]
			return validate(e, o)
		},
	}
	addOutputFlag(cmd, &o.output)
	return cmd
}

func validate(e *env, o validateOptions) error {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	if err := e.resolve(); err != nil {
		return err
	}
	f, err := family.Load(e.Paths, o.family)
	faults, faulty := errors.AsType[family.Faults](err)
	switch {
	case err != nil && !faulty:
		return err
	case o.output == "json":
		return errors.Join(printValidity(e, o.family, faults), err)
	case faulty:
		return err
	}
	_, err = fmt.Fprintf(e.Out, "%s: %s, %s: valid\n", f.Name, count(len(f.Targets), "target"), count(len(f.Networks), "network"))
	return err
}

// printValidity writes the result for programs. Faults are a result too, so they
// go to Out as well as into the error.
func printValidity(e *env, name string, faults family.Faults) error {
	if faults == nil {
		faults = family.Faults{} // [] and not null
	}
	enc := json.NewEncoder(e.Out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		Family string        `json:"family"`
		Valid  bool          `json:"valid"`
		Faults family.Faults `json:"faults"`
	}{name, len(faults) == 0, faults})
}

// count is a number with its noun, in the plural unless it is one.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
