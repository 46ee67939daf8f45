package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"meros/internal/family"
	"meros/internal/netfilter"
	"meros/internal/ui"
)

type proveOptions struct {
	family string
	output string // text or json
}

func newProveCmd(e *env) *cobra.Command {
	var o proveOptions
	cmd := &cobra.Command{
		Use:   "prove FAMILY",
		Short: "Show that a family's filter rules do what its policy says, without starting it",
		Long: `Show who reaches whom by a family's policy, judge the assertions of
netfilter/assert.xml, then load the very rules that init would load in a network
namespace of its own, send hundreds of packets through them (TCP, UDP, ICMP, ARP,
IPv6, fragments and options, spoofed senders, forged answers, broadcasts) and
compare. All of it is done three times: without br_netfilter, with it, and beside
a family that has no rules. It takes seconds, changes nothing on the host and needs
no root where user namespaces are allowed.
`,
		Example: `  meros prove mos_sec
  meros prove mos_sec --output json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFamilies(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.family = args[0]
			return prove(cmd.Context(), e, o)
		},
	}
	addOutputFlag(cmd, &o.output)
	return cmd
}

// errNotProven is the verdict that something is not as the recipe says.
var errNotProven = errors.New("the rules do not do what the recipe says")

func prove(ctx context.Context, e *env, o proveOptions) error {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	if err := e.resolve(); err != nil {
		return err
	}
	f, err := family.Load(e.Paths, o.family)
	if err != nil {
		return err
	}
	p, err := guests(e).Prove(ctx, f)
	if err != nil {
		return err
	}
	if o.output == "json" {
		err = printJSON(e.Out, p)
	} else {
		err = printProof(e, p)
	}
	if err == nil && !p.Holds() {
		err = fmt.Errorf("%s: %w", f.Name, errNotProven)
	}
	return err
}

func printProof(e *env, p netfilter.Proof) error {
	if err := printMatrix(e, p.Matrix); err != nil {
		return err
	}
	for _, v := range p.Assertions {
		word := "holds"
		if !v.Holds {
			word = "VIOLATED"
		}
		fmt.Fprintf(e.Out, "%s: %s (%s)\n", word, ui.Clean(v.Words), ui.Clean(v.Where))
		if !v.Holds {
			fmt.Fprintf(e.Out, "  packet: %s\n  by: %s\n", v.Packet, ui.Clean(v.Rule))
		}
	}
	for _, f := range p.Faults {
		fmt.Fprintf(e.Out, "NOT AS DECLARED: %s\n  packet: %s\n", ui.Clean(faultWords(f)), f.Packet)
	}
	if p.NoBridgeNF {
		e.Warn("this kernel has no br_netfilter: the rules were tried without it only")
	}
	_, err := fmt.Fprintf(e.Out, "%s sent, %d not as declared\n", count(p.Packets, "packet"), len(p.Faults))
	return err
}

func faultWords(f netfilter.Finding) string {
	words := []string{fmt.Sprintf("%s to %s, %s:", f.From, f.To, f.What)}
	switch {
	case f.Want && !f.Got:
		words = append(words, "allowed, and did not arrive")
	case f.Got && !f.Want:
		words = append(words, "forbidden, and arrived")
	}
	if len(f.Leaks) > 0 {
		words = append(words, "came out at "+strings.Join(f.Leaks, ", "))
	}
	if f.Trouble != "" {
		words = append(words, f.Trouble)
	}
	if f.Alone {
		words = append(words, "(beside a family without rules)")
	}
	if f.Bridged {
		words = append(words, "(with br_netfilter)")
	}
	return strings.Join(words, " ")
}

// printMatrix prints who reaches whom; pairs of which nothing is said are left to
// the last line.
func printMatrix(e *env, cells []netfilter.Cell) error {
	w := tabwriter.NewWriter(e.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "FROM\tTO\tMAY")
	for _, c := range cells {
		for _, words := range c.Allow {
			fmt.Fprintf(w, "%s\t%s\t%s\n", c.From, c.To, words)
		}
	}
	fmt.Fprintln(w, "all else\t\tnothing")
	return w.Flush()
}
