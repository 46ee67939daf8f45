package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"meros/internal/image"
	"meros/internal/layout"
)

func newSnapshotCmd(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Keep states of a target's disk, and go back to them",
		Long: `Keep states of the disk of a target that does not run, and go back to them. They
are kept in the target's image, share with it what is the same, and go with it: a
build that makes the image anew, or an import, starts without any.
`,
		Example: `  meros snapshot take mos_lab-target clean
  meros snapshot restore mos_lab-target clean`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newSnapshotListCmd(e),
		newSnapshotActCmd(e, "take", "Keep the state that a target's disk is in", image.TakeSnapshot),
		newSnapshotActCmd(e, "restore", "Put a target's disk back into a state that was kept; what it is in now is lost", image.RestoreSnapshot),
		newSnapshotActCmd(e, "remove", "Keep a state no longer", image.RemoveSnapshot))
	return cmd
}

func newSnapshotListCmd(e *env) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:               "list FULLID",
		Short:             "List the states of a target's disk that are kept, oldest first",
		Example:           `  meros snapshot list mos_lab-target`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeTargets(e),
		RunE:              func(cmd *cobra.Command, args []string) error { return listSnapshots(cmd.Context(), e, args[0], output) },
	}
	addOutputFlag(cmd, &output)
	return cmd
}

func listSnapshots(ctx context.Context, e *env, fullID, output string) error {
	if err := checkOutput(output); err != nil {
		return err
	}
	t, err := findTarget(e, fullID)
	if err != nil {
		return err
	}
	found, err := guests(e).Snapshots(ctx, t)
	if err != nil {
		return err
	}
	if output == "json" {
		return printJSON(e.Out, found)
	}
	w := tabwriter.NewWriter(e.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tTAKEN")
	for _, s := range found {
		fmt.Fprintf(w, "%s\t%s\n", s.Name, s.Taken.Local().Format("2006-01-02 15:04"))
	}
	return w.Flush()
}

func newSnapshotActCmd(e *env, verb, short string, act image.SnapshotAct) *cobra.Command {
	return e.logged(&cobra.Command{
		Use:               verb + " FULLID NAME",
		Short:             short,
		Example:           "  meros snapshot " + verb + " mos_lab-target clean",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeTargets(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := layout.CheckSnapshot(args[1]); err != nil {
				return usage(err)
			}
			t, err := findTarget(e, args[0])
			if err != nil {
				return err
			}
			return guests(e).Snapshot(cmd.Context(), t, act, args[1])
		},
	})
}
