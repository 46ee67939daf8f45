package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"meros/internal/family"
	"meros/internal/session"
)

func newSSHConfigCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "ssh-config [FULLID...]",
		Short: "Print an OpenSSH configuration for targets",
		Long: `Print a part of an ssh_config by which ssh, scp, sftp, rsync, git, ansible and
editors reach targets under their full ids: with the right key, address and port,
and with no host key accepted but the pinned one. Without an argument, for all
targets that have been built.
`,
		Example: `  meros ssh-config >~/.ssh/meros.conf     # and once: Include meros.conf
  ssh -F ~/.ssh/meros.conf mos_demo-box
  rsync -e 'ssh -F meros.conf' -a tree/ mos_demo-box:tree/`,
		ValidArgsFunction: completeTargets(e),
		RunE: func(_ *cobra.Command, args []string) error {
			return sshConfig(e, args)
		},
	}
}

func sshConfig(e *env, fullIDs []string) error {
	targets, err := findTargets(e, fullIDs)
	if err != nil {
		return err
	}
	var parts []string
	for _, t := range targets {
		part, err := session.SSHConfig(e.Paths, t)
		if len(fullIDs) == 0 && (errors.Is(err, session.ErrNotBuilt) || errors.Is(err, session.ErrNoSession)) {
			continue
		}
		if err != nil {
			return err
		}
		parts = append(parts, part)
	}
	fmt.Fprint(e.Out, strings.Join(parts, "\n"))
	return nil
}

// findTargets returns the targets named, or else all of the families whose
// recipes have no fault.
func findTargets(e *env, fullIDs []string) ([]*family.Target, error) {
	if err := e.resolve(); err != nil {
		return nil, err
	}
	var targets []*family.Target
	for _, id := range fullIDs {
		_, t, err := family.LoadTarget(e.Paths, id)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	if len(fullIDs) > 0 {
		return targets, nil
	}
	names, err := family.List(e.Paths)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		f, err := family.Load(e.Paths, name)
		if err != nil {
			e.Warn("%s is left out: its recipe has faults; see meros validate %s", name, name)
			continue
		}
		targets = append(targets, f.Targets...)
	}
	return targets, nil
}

func newIPCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:               "ip FULLID",
		Short:             "Print a target's address",
		Example:           `  curl http://$(meros ip mos_lab-web)/`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeTargets(e),
		RunE: func(_ *cobra.Command, args []string) error {
			t, err := findTarget(e, args[0])
			if err != nil {
				return err
			}
			if !t.Addr.IsValid() {
				return fmt.Errorf("%s: %w: the recipe names no address for it", t.FullID(), session.ErrNoSession)
			}
			fmt.Fprintln(e.Out, t.Addr)
			return nil
		},
	}
}

func newPortsCmd(e *env) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "ports FULLID",
		Short: "List the ports on which services of a target listen",
		Long: `List the addresses and TCP ports on which services of a running target listen,
as the target itself says: do not take it for the truth about a hostile one.
`,
		Example:           `  meros ports mos_demo-box`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeTargets(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			return ports(cmd.Context(), e, args[0], output)
		},
	}
	addOutputFlag(cmd, &output)
	return cmd
}

func ports(ctx context.Context, e *env, fullID, output string) error {
	if err := checkOutput(output); err != nil {
		return err
	}
	c, err := dial(ctx, e, fullID, false)
	if err != nil {
		return err
	}
	defer c.Close()
	found, err := session.Ports(ctx, c)
	if err != nil {
		return err
	}
	type port struct {
		Address string `json:"address"`
		Port    uint16 `json:"port"`
	}
	list := []port{}
	for _, at := range found {
		list = append(list, port{at.Addr().String(), at.Port()})
	}
	if output == "json" {
		return printJSON(e.Out, list)
	}
	w := tabwriter.NewWriter(e.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "PORT\tADDRESS")
	for _, p := range list {
		fmt.Fprintf(w, "%d\t%s\n", p.Port, p.Address)
	}
	return w.Flush()
}
