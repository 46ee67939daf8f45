package main

import (
	"context"

	"github.com/spf13/cobra"

	"meros/internal/session"
)

type connectOptions struct {
	fullID string
}

func newConnectCmd(e *env) *cobra.Command {
	var o connectOptions
	cmd := &cobra.Command{
		Use:        "connect FULLID",
		Short:      "Open a login shell in a target (--connect, -c)",
		SuggestFor: []string{"ssh", "shell", "enter"},
		Long: `Open a login shell in a target over SSH, as the recipe's user. Only the host key
that was made when the target was built is accepted. A line that begins with ~.
ends the session when the guest hangs. The exit status is the shell's, 255 if
the guest was not reached or the connection was lost.
`,
		Example:           "  meros connect mos_demo-box",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeTargets(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.fullID = args[0]
			return connect(cmd.Context(), e, o)
		},
	}
	return cmd
}

func connect(ctx context.Context, e *env, o connectOptions) error {
	c, err := dial(ctx, e, o.fullID, true)
	if err != nil {
		return guestStatus(err)
	}
	defer c.Close()
	return guestStatus(session.Shell(ctx, c, e.Streams, e.Getenv))
}
