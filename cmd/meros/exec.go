package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"meros/internal/session"
)

type execOptions struct {
	fullID   string
	argv     []string
	tty      bool
	noMaster bool
	env      []string      // NAME=VALUE, or NAME for the caller's own value
	timeout  time.Duration // 0: none
	user     string        // "": the recipe's
}

func newExecCmd(e *env) *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use:   "exec FULLID [flags] -- COMMAND [ARG...]",
		Short: "Run a command in a target",
		Long: `Run a command in a target over SSH, as the recipe's user. The guest gets the
arguments exactly as they stand; for a shell's line, say sh -c 'LINE'. Input,
output and errors are the command's own. The exit status is the command's,
128+n when signal n ended it, 124 when --timeout did, 255 if the guest was not
reached or the connection was lost.

FULLID may mean many targets, as 'mos_lab-*' or mos_lab-a,mos_lab-b. Then they run
the command side by side without input, each line of output begins with the full
id, and the exit status is the worst one.
`,
		Example: `  meros exec mos_demo-box -- uname -a
  meros exec mos_demo-box -e LANG=C -- sh -c 'sort | uniq' <words >sorted
  meros exec 'mos_lab-*' -- uptime
  meros exec mos_demo-box --tty -- less /etc/passwd`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeTargets(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			return behindTarget(cmd, args, func(fullID string, argv []string) error {
				o.fullID, o.argv = fullID, argv
				return execute(cmd.Context(), e, o)
			})
		},
	}
	cmd.Flags().SetInterspersed(false)
	addMasterFlag(cmd, &o.noMaster)
	cmd.Flags().BoolVarP(&o.tty, "tty", "t", false, "give the command a terminal")
	cmd.Flags().StringArrayVarP(&o.env, "env", "e", nil, "set a variable, `NAME=VALUE`; NAME alone takes the caller's value, if there is one")
	cmd.Flags().StringVarP(&o.user, "user", "u", "", "run it as this `user`, which has to be the recipe's")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 0, "end the command after this `time`, such as 30s: by SIGINT, then SIGTERM, then SIGKILL (default: never)")
	return cmd
}

func execute(ctx context.Context, e *env, o execOptions) error {
	if len(o.argv) == 0 {
		return usage(errors.New("exec: no command: want exec FULLID -- COMMAND [ARG...]"))
	}
	settings, err := o.settings(e.Getenv)
	if err != nil {
		return usage(fmt.Errorf("exec: %w", err))
	}
	eo := session.ExecOptions{Env: settings, TTY: o.tty, Getenv: e.Getenv}
	if isPattern(o.fullID) {
		return executeMany(ctx, e, o, eo)
	}
	t, err := findTarget(e, o.fullID)
	if err != nil {
		return err
	}
	return executeOn(ctx, e, t, o, e.Streams, eo)
}

// settings returns the variables to set, each NAME=VALUE. A name for which the caller
// has no value is left out.
func (o execOptions) settings(getenv func(string) string) ([]string, error) {
	var settings []string
	for _, s := range o.env {
		name, _, given := strings.Cut(s, "=")
		if !given {
			s += "=" + getenv(name)
		}
		if err := session.CheckEnv(s); err != nil {
			return nil, err
		}
		if given || s != name+"=" {
			settings = append(settings, s)
		}
	}
	return settings, nil
}
