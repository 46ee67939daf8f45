package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"meros/internal/lifecycle"
	"meros/internal/ui"
)

type doctorOptions struct {
	output string // text or json
}

func newDoctorCmd(e *env) *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this host lacks and how to mend it",
		Long: `Look at all that meros needs of this host: programs, libvirt, KVM, namespaces,
disk space. Each line says what there is or what is missing, and then how to mend
it. The exit status is 4 when something is missing that meros cannot do without.
`,
		Example: `  meros doctor
  meros doctor --output json`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return doctor(cmd.Context(), e, o)
		},
	}
	addOutputFlag(cmd, &o.output)
	return cmd
}

func doctor(ctx context.Context, e *env, o doctorOptions) error {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	// A host can be looked at without a root; what is asked of one is left out.
	if err := e.resolve(); err != nil {
		e.Step("no root folder: disk space and the way to the images are not looked at")
	}
	checks := lifecycle.Doctor{Runner: e.Runner, Paths: e.Paths, Dial: dialLibvirt(e)}.Examine(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := printChecks(e, o, checks); err != nil {
		return err
	}
	return lifecycle.Verdict(checks)
}

func printChecks(e *env, o doctorOptions, checks []lifecycle.Check) error {
	if o.output == "json" {
		return printJSON(e.Out, struct {
			Version int               `json:"version"`
			Ready   bool              `json:"ready"`
			Checks  []lifecycle.Check `json:"checks"`
		}{1, lifecycle.Verdict(checks) == nil, checks})
	}
	for _, c := range checks {
		if _, err := fmt.Fprintf(e.Out, "%-8s %s: %s\n", verdict(c), c.Name, ui.Clean(c.Found)); err != nil {
			return err
		}
		if !c.OK && c.Mend != "" {
			fmt.Fprintf(e.Out, "         mend: %s\n", ui.Clean(c.Mend))
		}
	}
	return nil
}

func verdict(c lifecycle.Check) string {
	switch {
	case c.OK:
		return "ok"
	case c.Needed:
		return "missing"
	}
	return "note"
}
