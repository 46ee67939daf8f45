package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/layout"
	"meros/internal/lifecycle"
	"meros/internal/ui"
)

// graceTime is what a guest may take to power off; an emulated one needs some ten
// seconds.
const graceTime = time.Minute

type shutdownOptions struct {
	name  string // a family, a full id, or "": all of this root
	force bool   // cut the power instead of asking the guests
	grace time.Duration
	yes   bool // shutdown-all: do not ask

	trustHooks bool
}

func newShutdownCmd(e *env) *cobra.Command {
	var o shutdownOptions
	cmd := &cobra.Command{
		Use:        "shutdown [FAMILY|FULLID]",
		Short:      "Power off guests and take down their networks (--shutdown)",
		SuggestFor: []string{"stop", "down", "halt"},
		Long: `Ask the guests of a family, or one guest, or without an argument all guests
that meros started, to power off; cut the power of those that have not after a
time; and take down the family's networks that no guest uses any more. Guests and
networks of others are never touched. Nothing running is fine. The family's host
hooks are run, pre-stop before and post-stop after; one that fails keeps nothing
from being stopped, and ends this with status 1.
`,
		Example: `  meros shutdown mos_demo         # a family
  meros shutdown mos_demo-box     # one guest
  meros shutdown                  # all that meros started`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeGuests(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = strings.Join(args, "")
			return shutdown(cmd.Context(), e, o)
		},
	}
	addShutdownFlags(cmd, &o)
	return cmd
}

func addShutdownFlags(cmd *cobra.Command, o *shutdownOptions) {
	cmd.Flags().BoolVar(&o.force, "force", false, "cut the power instead of asking the guests")
	cmd.Flags().DurationVar(&o.grace, "grace", graceTime, "how long guests may take before their power is cut")
	cmd.Flags().BoolVar(&o.trustHooks, "trust-hooks", false, "run host hooks that contain \"flush ruleset\"")
}

func shutdown(ctx context.Context, e *env, o shutdownOptions) error {
	if err := e.resolve(); err != nil {
		return err
	}
	so := lifecycle.ShutdownOptions{Family: o.name, Force: o.force, Grace: o.grace, TrustHooks: o.trustHooks}
	if strings.Contains(o.name, "-") {
		var err error
		if so.Family, so.Target, err = layout.SplitFullID(o.name); err != nil {
			return usage(err)
		}
	} else if o.name != "" {
		if err := layout.CheckFamily(o.name); err != nil {
			return usage(err)
		}
	}
	n, err := guests(e).Shutdown(ctx, so)
	err = errors.Join(err, endMasters(ctx, e, func(fullID string) bool {
		return o.name == "" || fullID == o.name || strings.HasPrefix(fullID, o.name+"-")
	}))
	if err != nil || n > 0 || o.name == "" {
		return err
	}
	// Nothing runs of it: then the name may be wrong. Other faults of a recipe are
	// not a shutdown's concern.
	if _, _, err := loadGuests(e, o.name); errors.Is(err, family.ErrNotFound) {
		return err
	}
	return nil
}

func newShutdownAllCmd(e *env) *cobra.Command {
	var o shutdownOptions
	cmd := &cobra.Command{
		Use:   "shutdown-all",
		Short: "Power off every libvirt guest on this host (--shutdown-all)",
		Long: `Ask every libvirt guest on this host, whoever started it, to power off, after a
confirmation; cut the power of those that have not after a time.
`,
		Example:           "  meros shutdown-all --grace 5m",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return shutdownAll(cmd.Context(), e, o)
		},
	}
	addShutdownFlags(cmd, &o)
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask for a confirmation")
	return cmd
}

func shutdownAll(ctx context.Context, e *env, o shutdownOptions) error {
	if err := e.resolve(); err != nil {
		return err
	}
	g := guests(e)
	domains, err := g.Active(ctx)
	if err != nil {
		return err
	}
	if len(domains) == 0 {
		e.Step("no guest runs on this host")
		return nil
	}
	if !o.yes {
		for _, d := range domains {
			e.Warn("%s, started by %s, will be powered off", d.Name, d.Owner.Describe())
		}
		if err := confirm(e, fmt.Sprintf("power off %s? type yes: ", count(len(domains), "guest"))); err != nil {
			return err
		}
	}
	err = g.ShutdownAll(ctx, domains, lifecycle.ShutdownOptions{Force: o.force, Grace: o.grace, TrustHooks: o.trustHooks})
	return errors.Join(err, endMasters(ctx, e, func(string) bool { return true }))
}

// confirm asks the person at the terminal, and fails unless they say yes.
func confirm(e *env, question string) error {
	if _, ok := ui.Terminal(e.In); !ok {
		return usage(hint.Add(errors.New("not confirmed: there is no terminal to ask on"), "give --yes"))
	}
	fmt.Fprint(e.Err, question)
	answer, _ := bufio.NewReader(e.In).ReadString('\n')
	if strings.TrimSpace(answer) != "yes" {
		return errors.New("not confirmed: nothing was done")
	}
	return nil
}
