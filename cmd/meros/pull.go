package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"meros/internal/session"
)

type pullOptions struct {
	fullID   string
	noMaster bool
	limits   limits
	session.PullOptions
}

// maxWarned is how many refused entries are listed without --verbose.
const maxWarned = 20

func newPullCmd(e *env) *cobra.Command {
	var o pullOptions
	cmd := &cobra.Command{
		Use:   "pull FULLID",
		Short: "Copy all of a target's shared folder to the host (--pull)",
		Long: `Copy all of a target's ~/mos-shared/ to data/mos-shared/FULLID/, whose former
content is replaced in one step once everything is there. What the former content
has in the same size and of the same time is not sent again. Modes and times are
kept, but no file is executable unless --executable is given, and what came is
marked with the attribute user.meros.origin. A pull that broke off is gone on with
by the next one.

With --from, another folder or a file of the target is copied; with --to, to
another folder, which a pull made or is empty or not there, unless --delete allows
to replace what is in it. --to - writes the file that --from names to the output.

A guest is not trusted: entries with odd names, links out of the folder, devices
and the like are refused and listed, all of them with --verbose; the rest is copied,
and the command fails.
A guest that shows more than the limits has nothing copied.
`,
		Example: `  meros pull mos_demo-box
  meros pull mos_demo-box --max-size 50G --executable
  meros pull mos_demo-box --from results --to ~/results
  meros pull mos_demo-box --from backup.tar --to - | tar -t`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeTargets(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.fullID = args[0]
			return pull(cmd.Context(), e, o)
		},
	}
	addMasterFlag(cmd, &o.noMaster)
	flags := cmd.Flags()
	o.limits.add(cmd)
	flags.BoolVar(&o.Executable, "executable", false, "keep the execute bits of files")
	flags.StringVar(&o.From, "from", "", "`folder` or file in the target, from the user's home (default: the shared folder)")
	flags.StringVar(&o.To, "to", "", "`folder` of this host that is replaced (default: data/mos-shared/FULLID), or -")
	flags.BoolVar(&o.Checksum, "checksum", false, "compare by SHA-256 instead of size and time, and verify what came")
	flags.BoolVar(&o.Delete, "delete", false, "replace what is in --to, though no pull has made it")
	flags.BoolVar(&o.DryRun, "dry-run", false, "say what would be done, and do nothing")
	return cmd
}

func pull(ctx context.Context, e *env, o pullOptions) error {
	if o.limits.files < 1 {
		return usage(errors.New("pull: --max-files has to be 1 or more"))
	}
	if o.To == "-" && o.From == "" {
		return usage(errors.New("pull: --to - needs --from with a file of the target"))
	}
	if o.To == "-" && (o.DryRun || o.Checksum || o.Delete || o.Executable) {
		return usage(errors.New("pull: the file goes to the output as it comes: --dry-run, --checksum, --delete and --executable are for folders"))
	}
	o.MaxFiles, o.MaxSize = o.limits.files, int64(o.limits.size)
	c, err := dial(ctx, e, o.fullID, o.noMaster)
	if err != nil {
		return err
	}
	defer c.Close()
	if o.To == "-" {
		if err := session.PullStream(ctx, c, e.Streams, o.PullOptions); err != nil {
			return fmt.Errorf("pull from %s: %w", o.fullID, err)
		}
		return nil
	}
	done, err := session.Pull(ctx, c, e.Paths, e.Streams, o.PullOptions)
	refused, partly := errors.AsType[*session.RefusedError](err)
	if (err == nil || partly) && !o.DryRun {
		e.Step("pulled %s to %s", done, o.landed(e))
	}
	if partly {
		warnRefused(e, refused)
	}
	if err != nil {
		return fmt.Errorf("pull from %s: %w", o.fullID, err)
	}
	return nil
}

func (o pullOptions) landed(e *env) string {
	if o.To != "" {
		return o.To
	}
	return e.Paths.Shared(o.fullID)
}

func warnRefused(e *env, refused *session.RefusedError) {
	listed := refused.Entries
	if !e.Verbose {
		listed = listed[:min(len(listed), maxWarned)]
	}
	for _, entry := range listed {
		e.Warn("refused %s", entry)
	}
	switch more := refused.Total - len(listed); {
	case more > 0 && e.Verbose:
		e.Warn("and %d more, of which no list was kept", more)
	case more > 0:
		e.Warn("and %d more: --verbose lists the first %d", more, len(refused.Entries))
	}
}
