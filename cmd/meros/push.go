package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"meros/internal/session"
)

type pushOptions struct {
	fullID   string
	files    []string
	noMaster bool
	limits   limits // of what another target sends
	session.PushOptions
}

// limits bound what is taken from a target.
type limits struct {
	files int
	size  size
}

func (l *limits) add(cmd *cobra.Command) {
	l.size = session.DefaultMaxSize
	cmd.Flags().IntVar(&l.files, "max-files", session.DefaultMaxFiles, "most files, folders and links to take")
	cmd.Flags().Var(&l.size, "max-size", "most bytes to take")
}

func newPushCmd(e *env) *cobra.Command {
	var o pushOptions
	cmd := &cobra.Command{
		Use:   "push FULLID PATH... | push FULLID:PATH... FULLID:[FOLDER]",
		Short: "Copy files and folders to a target's shared folder (--push)",
		Long: `Copy files and whole folders to a target's ~/mos-shared/, or another folder of
it, which is made if it is not there. Modes, times and holes are kept, links in
folders stay links. What has the same name in the guest is replaced if its size or
time differs, folders are merged. Each file appears there when it is whole; a
large one that broke off is gone on with by the next push of it.

With - for the path, the input becomes the file that --to names, as it comes. With FULLID:PATH,
files go from one target to another through the memory of this host, and what the
first one shows is checked as for a pull.
`,
		Example: `  meros push mos_demo-box notes.txt pictures/
  meros push mos_demo-box --to bin tool.sh
  meros push mos_demo-box --delete --dry-run website/
  tar -c . | meros push mos_demo-box - --to backup.tar
  meros push mos_lab-a:results mos_lab-b:`,
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: completeTargetFiles(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.fullID, o.files = args[0], args[1:]
			return push(cmd.Context(), e, o)
		},
	}
	addMasterFlag(cmd, &o.noMaster)
	flags := cmd.Flags()
	flags.StringVar(&o.To, "to", "", "`folder` in the target, from the user's home (default: the shared folder)")
	flags.BoolVar(&o.Checksum, "checksum", false, "compare by SHA-256 instead of size and time, and verify what was sent")
	flags.BoolVar(&o.Delete, "delete", false, "remove from folders in the target what they have not here")
	flags.BoolVar(&o.DryRun, "dry-run", false, "say what would be done, and do nothing")
	o.limits.add(cmd)
	return cmd
}

func push(ctx context.Context, e *env, o pushOptions) error {
	if strings.Contains(o.fullID, ":") {
		return pushBetween(ctx, e, o)
	}
	stream := len(o.files) == 1 && o.files[0] == "-"
	if stream && (o.DryRun || o.Checksum || o.Delete) {
		return usage(errors.New("push: the input goes to the target as it comes: --dry-run, --checksum and --delete are for files"))
	}
	t, err := findTarget(e, o.fullID)
	if err != nil {
		return err
	}
	c, err := dialTarget(ctx, e, t, o.noMaster)
	if err != nil {
		return err
	}
	defer c.Close()
	o.PushOptions.Dial = func(ctx context.Context) (*session.Conn, error) { return session.Dial(ctx, e.Paths, t) }
	var done session.Summary
	var where string
	if stream {
		done, where, err = session.PushStream(ctx, c, e.Streams, o.To)
	} else {
		done, where, err = session.Push(ctx, c, e.Streams, o.files, o.PushOptions)
	}
	if err != nil {
		return fmt.Errorf("push to %s: %w", o.fullID, err)
	}
	o.tell(e, done, where)
	return nil
}

func (o pushOptions) tell(e *env, done session.Summary, where string) {
	if !o.DryRun {
		e.Step("pushed %s to %s", done, where)
	}
}

// pushBetween copies from one target to another.
func pushBetween(ctx context.Context, e *env, o pushOptions) error {
	from, paths, to, err := o.between()
	if err != nil {
		return usage(fmt.Errorf("push: %w", err))
	}
	source, err := dial(ctx, e, from, o.noMaster)
	if err != nil {
		return err
	}
	defer source.Close()
	dest, err := dial(ctx, e, to, o.noMaster)
	if err != nil {
		return err
	}
	defer dest.Close()
	limits := session.PullOptions{MaxFiles: o.limits.files, MaxSize: int64(o.limits.size)}
	done, where, err := session.PushBetween(ctx, source, dest, e.Streams, paths, limits, o.PushOptions)
	refused, partly := errors.AsType[*session.RefusedError](err)
	if err == nil || partly {
		o.tell(e, done, where)
	}
	if partly {
		warnRefused(e, refused)
	}
	if err != nil {
		return fmt.Errorf("push from %s to %s: %w", from, to, err)
	}
	return nil
}

// between reads FULLID:PATH... FULLID:[FOLDER], and sets the folder.
func (o *pushOptions) between() (from string, paths []string, to string, err error) {
	words := append([]string{o.fullID}, o.files...)
	last := len(words) - 1
	for _, word := range words[:last] {
		id, path, ok := strings.Cut(word, ":")
		if !ok || from != "" && id != from {
			return "", nil, "", errors.New("want all paths from one target, as FULLID:PATH... FULLID:[FOLDER]")
		}
		from, paths = id, append(paths, path)
	}
	to, folder, ok := strings.Cut(words[last], ":")
	switch {
	case !ok:
		return "", nil, "", fmt.Errorf("%q is no target's folder: want FULLID:[FOLDER]; meros pull copies to this host", words[last])
	case folder != "" && o.To != "":
		return "", nil, "", errors.New("--to and FULLID:FOLDER both name the folder")
	case folder != "":
		o.To = folder
	}
	return from, paths, to, nil
}
