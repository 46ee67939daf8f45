package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"meros/internal/family"
	"meros/internal/netfilter"
)

func newPolicyCmd(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Show a family's policy and its rules, or apply it anew to what runs",
		Example: `  meros policy show mos_sec
  meros policy apply mos_sec`,
	}
	show := &cobra.Command{
		Use:   "show FAMILY",
		Short: "Show who may talk to whom, the rules made of it, and what they counted",
		Long: `Show the policy of a family in words, then the filter rules: those that the kernel
has, with counters, if the family runs (which takes root to read), else those that
init would load.
`,
		Example:           "  meros policy show mos_sec",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFamilies(e),
		RunE:              func(cmd *cobra.Command, args []string) error { return policyShow(cmd.Context(), e, args[0]) },
	}
	apply := &cobra.Command{
		Use:   "apply FAMILY",
		Short: "Load a changed policy for a family that runs",
		Long: `Replace the filter rules of a running family by those of its recipe, as one
transaction: no packet passes in between. Connections of the family are cut, and
those that the new policy allows are judged anew.
`,
		Example:           "  meros policy apply mos_sec",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFamilies(e),
		RunE:              func(cmd *cobra.Command, args []string) error { return policyApply(cmd.Context(), e, args[0]) },
	}
	cmd.AddCommand(show, e.logged(apply))
	return cmd
}

func loadFamily(e *env, name string) (*family.Family, error) {
	if err := e.resolve(); err != nil {
		return nil, err
	}
	return family.Load(e.Paths, name)
}

func policyShow(ctx context.Context, e *env, name string) error {
	f, err := loadFamily(e, name)
	if err != nil {
		return err
	}
	rules, err := guests(e).Rules(f)
	if err != nil {
		return err
	}
	if err := printMatrix(e, netfilter.Matrix(f)); err != nil {
		return err
	}
	live, err := netfilter.Counters(ctx, e.Runner, f.Name)
	if err == nil && live != "" {
		_, err = fmt.Fprintf(e.Out, "\n# As the kernel has them:\n%s", live)
		return err
	}
	why := "the family does not run"
	if err != nil {
		why = "the kernel's cannot be read: " + err.Error()
	}
	_, err = fmt.Fprintf(e.Out, "\n# As init would load them (%s):\n%s", why, rules.Text)
	return err
}

func policyApply(ctx context.Context, e *env, name string) error {
	f, err := loadFamily(e, name)
	if err != nil {
		return err
	}
	cut, err := guests(e).ApplyPolicy(ctx, f)
	if err != nil {
		return err
	}
	e.Step("%s cut", count(cut, "connection"))
	return nil
}
