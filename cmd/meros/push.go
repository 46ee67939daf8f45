package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"meros/internal/session"
)

type pushOptions struct {
	fullID   string
	files    []string
	noMaster bool
	to       string // folder in the guest
}

func newPushCmd(e *env) *cobra.Command {
	var o pushOptions
	cmd := &cobra.Command{
		Use:   "push FULLID PATH...",
		Short: "Copy files and folders to a target's shared folder (--push)",
		Long: `Copy files and whole folders to a target's ~/mos-shared/, or another folder of
it, which is made if it is not there. Modes and times are kept, links in folders
stay links. What has the same name in the guest is replaced, folders are merged.
Each file appears there when it is whole.
`,
		Example: `  meros push mos_demo-box notes.txt pictures/
  meros push mos_demo-box --to bin tool.sh`,
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: completeTargetFiles(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.fullID, o.files = args[0], args[1:]
			return push(cmd.Context(), e, o)
		},
	}
	addMasterFlag(cmd, &o.noMaster)
	cmd.Flags().StringVar(&o.to, "to", "", "`folder` in the target, from the user's home (default: the shared folder)")
	return cmd
}

func push(ctx context.Context, e *env, o pushOptions) error {
	c, err := dial(ctx, e, o.fullID, o.noMaster)
	if err != nil {
		return err
	}
	defer c.Close()
	done, where, err := session.Push(ctx, c, e.Streams, o.files, session.PushOptions{To: o.to})
	if err != nil {
		return fmt.Errorf("push to %s: %w", o.fullID, err)
	}
	e.Step("pushed %s to %s", done, where)
	return nil
}
