package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/lifecycle"
	"meros/internal/ui"
	"meros/internal/virt"
)

type verifyOptions struct {
	family  string
	output  string // text or json
	accel   string
	disrupt bool
	partial bool // what was tried is enough
	timeout time.Duration
}

func newVerifyCmd(e *env) *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify FAMILY",
		Short: "Show from outside that a running family's policy holds",
		Long: `Have the running guests of a family send what its policy allows and what it does
not, and look on the host's side of every port, and on all other links of the host,
at what comes of it. What is allowed has to arrive; any packet that the policy does
not explain is a leak, whoever sent it, and is shown with where it was seen. It is
done as the guests are, and while the rules are loaded anew. It takes root.

This program is copied to each guest that takes sessions and sends from there, as the
recipe's user; what it says is not believed. Guests whose user is root also send
spoofed frames.

With --disrupt every guest is killed and started again while the others send, and
next hops are rebooted too: what a guest has not written to its disk is lost.

The exit status is 0 if the policy held, 1 if it did not or could not be verified: a
target that does not run, or whose own packet filter lets nothing out, has not been
tried. With --partial what was tried is enough.
`,
		Example: `  sudo meros verify mos_sec
  sudo meros verify mos_sec --disrupt
  sudo meros verify mos_sec --output json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFamilies(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.family = args[0]
			return verify(cmd.Context(), e, o)
		},
	}
	addOutputFlag(cmd, &o.output)
	flags := cmd.Flags()
	flags.BoolVar(&o.disrupt, "disrupt", false, "also reboot, kill and start guests while the others send")
	flags.BoolVar(&o.partial, "partial", false, "be content with what could be tried")
	flags.StringVar(&o.accel, "accel", "", "what runs the code of guests that are started again: kvm, tcg or auto (default: $MEROS_ACCEL, else auto)")
	completeWords(cmd, "accel", "kvm", "tcg", "auto")
	flags.DurationVar(&o.timeout, "timeout", initTimeout, "how long a guest may take to come back")
	return cmd
}

// errNotHeld is the verdict that a policy does not hold.
var errNotHeld = errors.New("the policy does not hold")

func verify(ctx context.Context, e *env, o verifyOptions) error {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	accel, err := virt.ParseAccel(o.accel, e.Getenv)
	if err != nil {
		return usage(err)
	}
	if err := e.resolve(); err != nil {
		return err
	}
	f, err := family.Load(e.Paths, o.family)
	if err != nil {
		return err
	}
	v, err := guests(e).Verify(ctx, f, lifecycle.VerifyOptions{Disrupt: o.disrupt, Accel: accel, Timeout: o.timeout})
	if err != nil && v.Packets == 0 {
		return err
	}
	print := printVerification
	if o.output == "json" {
		print = func(e *env, v lifecycle.Verification) error { return printJSON(e.Out, v) }
	}
	if err := errors.Join(err, print(e, v)); err != nil {
		return err
	}
	return verified(v, o.partial)
}

// verified is what of a verification ends the command with another status than 0.
func verified(v lifecycle.Verification, partial bool) error {
	switch {
	case !v.Holds():
		return fmt.Errorf("%s: %w", v.Family, errNotHeld)
	case len(v.Untried) > 0 && !partial:
		err := fmt.Errorf("%s: the policy holds as far as it was tried, which is not all of it: %s", v.Family, strings.Join(v.Untried, "; "))
		return hint.Add(err, "meros init %s starts what does not run; with --partial what was tried is enough", v.Family)
	}
	return nil
}

func printVerification(e *env, v lifecycle.Verification) error {
	w := tabwriter.NewWriter(e.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "WHEN\tALLOWED\tARRIVED\tFORBIDDEN\tNOT SENT")
	for _, t := range v.Phases {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\n", ui.Clean(t.Phase), t.Allowed, t.Arrived, t.Forbidden, t.Unsent)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if v.Filter != lifecycle.FilterOK {
		fmt.Fprintf(e.Out, "RULES %s: they are not those that were loaded\n", v.Filter)
	}
	if len(v.Phases) > 0 && v.Phases[0].Untried > 0 {
		e.Warn("%s of what is allowed could not be tried: the guests' users may not send it", count(v.Phases[0].Untried, "packet"))
	}
	for _, m := range v.Missed {
		fmt.Fprintf(e.Out, "DOES NOT WORK, %s: %s to %s, %s: %s\n", m.Phase, m.From, m.To, m.What, ui.Clean(m.Why))
	}
	for _, l := range v.Leaks {
		from := ""
		if l.From != "" {
			from = " from " + l.From
		}
		fmt.Fprintf(e.Out, "LEAK, %s: at %s%s, %s\n  packet: %s\n  why: %s\n", l.Phase, l.Where, from, times(l.Count), ui.Clean(l.Packet), ui.Clean(l.Why))
	}
	for _, n := range slices.Concat(v.Untried, v.Notes) {
		fmt.Fprintf(e.Out, "note: %s\n", ui.Clean(n))
	}
	_, err := fmt.Fprintf(e.Out, "%s seen, %s, %d that did not work\n", count(v.Packets, "packet"), count(len(v.Leaks)+v.More, "leak"), len(v.Missed))
	return err
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
