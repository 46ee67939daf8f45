package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"meros/internal/session"
)

type pullOptions struct {
	fullID     string
	noMaster   bool
	maxFiles   int
	maxSize    size
	executable bool // keep files' execute bits
}

// maxWarned is how many refused entries are listed.
const maxWarned = 20

func newPullCmd(e *env) *cobra.Command {
	o := pullOptions{maxSize: session.DefaultMaxSize}
	cmd := &cobra.Command{
		Use:   "pull FULLID",
		Short: "Copy all of a target's shared folder to the host (--pull)",
		Long: `Copy all of a target's ~/mos-shared/ to data/mos-shared/FULLID/, whose former
content is replaced in one step once everything is there. Modes and times are
kept, but no file is executable unless --executable is given, and what came is
marked with the attribute user.meros.origin.

A guest is not trusted: entries with odd names, links out of the folder, devices
and the like are refused and listed; the rest is copied, and the command fails.
A guest that shows more than the limits has nothing copied.
`,
		Example: `  meros pull mos_demo-box
  meros pull mos_demo-box --max-size 50G --executable`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeTargets(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.fullID = args[0]
			return pull(cmd.Context(), e, o)
		},
	}
	addMasterFlag(cmd, &o.noMaster)
	cmd.Flags().IntVar(&o.maxFiles, "max-files", session.DefaultMaxFiles, "most files, folders and links to take")
	cmd.Flags().Var(&o.maxSize, "max-size", "most bytes to take")
	cmd.Flags().BoolVar(&o.executable, "executable", false, "keep the execute bits of files")
	return cmd
}

func pull(ctx context.Context, e *env, o pullOptions) error {
	if o.maxFiles < 1 {
		return usage(errors.New("pull: --max-files has to be 1 or more"))
	}
	c, err := dial(ctx, e, o.fullID, o.noMaster)
	if err != nil {
		return err
	}
	defer c.Close()
	done, err := session.Pull(ctx, c, e.Paths, e.Streams, session.PullOptions{
		MaxFiles: o.maxFiles, MaxSize: int64(o.maxSize), Executable: o.executable,
	})
	refused, partly := errors.AsType[*session.RefusedError](err)
	if err == nil || partly {
		e.Step("pulled %s to %s", done, e.Paths.Shared(o.fullID))
	}
	if partly {
		warnRefused(e, refused)
	}
	if err != nil {
		return fmt.Errorf("pull from %s: %w", o.fullID, err)
	}
	return nil
}

func warnRefused(e *env, refused *session.RefusedError) {
	for i, entry := range refused.Entries {
		if i == maxWarned {
			e.Warn("and %d more", refused.Total-maxWarned)
			return
		}
		e.Warn("refused %s", entry)
	}
}
