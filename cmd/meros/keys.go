package main

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"meros/internal/session"
)

func newKeysCmd(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "keys",
		Short:   "Show the keys by which meros and its targets know each other",
		Example: `  meros keys show`,
		Args:    cobra.NoArgs,
	}
	var output string
	show := &cobra.Command{
		Use:   "show [FULLID...]",
		Short: "Show the fingerprints of targets' keys",
		Long: `Show the fingerprints of the client key that opens sessions on a target and of
the host key, made when the target was built, which is the only one accepted.
Without an argument, of all targets that have been built.
`,
		Example:           `  meros keys show mos_demo-box`,
		ValidArgsFunction: completeTargets(e),
		RunE: func(_ *cobra.Command, args []string) error {
			return showKeys(e, args, output)
		},
	}
	addOutputFlag(show, &output)
	cmd.AddCommand(show)
	return cmd
}

func showKeys(e *env, fullIDs []string, output string) error {
	if err := checkOutput(output); err != nil {
		return err
	}
	targets, err := findTargets(e, fullIDs)
	if err != nil {
		return err
	}
	keys := []session.Fingerprint{}
	for _, t := range targets {
		both, err := session.Fingerprints(e.Paths, t)
		if len(fullIDs) == 0 && errors.Is(err, session.ErrNotBuilt) {
			continue
		}
		if err != nil {
			return err
		}
		keys = append(keys, both...)
	}
	if output == "json" {
		return printJSON(e.Out, keys)
	}
	w := tabwriter.NewWriter(e.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "TARGET\tKEY\tFINGERPRINT\tFILE")
	for _, k := range keys {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", k.FullID, k.Kind, k.SHA256, k.File)
	}
	return w.Flush()
}
