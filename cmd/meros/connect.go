package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"meros/internal/session"
)

type connectOptions struct {
	fullID                 string
	local, remote, dynamic []string // forwards, as ssh(1) writes them
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
the guest was not reached or the connection was lost. Ports are forwarded only when
asked for, as long as the shell lasts.
`,
		Example: `  meros connect mos_demo-box
  meros connect mos_lab-web -L 8080:localhost:80`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeTargets(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.fullID = args[0]
			return connect(cmd.Context(), e, o)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&o.local, "local", "L", nil, "forward a port of this host to the guest's side, `[ADDRESS:]PORT:HOST:PORT`")
	flags.StringArrayVarP(&o.remote, "remote", "R", nil, "forward a port of the guest to this host's side, `[ADDRESS:]PORT:HOST:PORT`")
	flags.StringArrayVarP(&o.dynamic, "dynamic", "D", nil, "be a SOCKS proxy at a port of this host, for the guest's side, `[ADDRESS:]PORT`")
	return cmd
}

// tunnels returns the forwards that were asked for.
func (o connectOptions) tunnels() ([]session.Tunnel, error) {
	var tunnels []session.Tunnel
	for kind, specs := range map[session.TunnelKind][]string{
		session.TunnelLocal: o.local, session.TunnelRemote: o.remote, session.TunnelSOCKS: o.dynamic,
	} {
		for _, spec := range specs {
			t, err := session.ParseTunnel(kind, spec)
			if err != nil {
				return nil, usage(fmt.Errorf("connect: -%c %w", kind, err))
			}
			tunnels = append(tunnels, t)
		}
	}
	return tunnels, nil
}

func connect(ctx context.Context, e *env, o connectOptions) error {
	tunnels, err := o.tunnels()
	if err != nil {
		return err
	}
	c, err := dial(ctx, e, o.fullID, true)
	if err != nil {
		return guestStatus(err)
	}
	defer c.Close()
	stop, err := c.Open(ctx, e.Streams, tunnels)
	if err != nil {
		return guestStatus(err)
	}
	defer stop()
	return guestStatus(session.Shell(ctx, c, e.Streams, e.Getenv))
}
