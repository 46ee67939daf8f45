package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"meros/internal/family"
	"meros/internal/graph"
)

type graphOptions struct {
	family string
	format string // svg, dot or mermaid
}

func newGraphCmd(e *env) *cobra.Command {
	var o graphOptions
	cmd := &cobra.Command{
		Use:        "graph FAMILY",
		Short:      "Draw a family: targets, networks, addresses, policy",
		SuggestFor: []string{"draw", "diagram", "plot"},
		Long: `Draw a family from its recipe: its targets, its networks, the addresses by which
they meet, and what its policy allows. Nothing is built or started. The picture
goes to standard output.
`,
		Example: `  meros graph mos_demo >mos_demo.svg
  meros graph mos_demo --format mermaid`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFamilies(e),
		RunE: func(_ *cobra.Command, args []string) error {
			o.family = args[0]
			return draw(e, o)
		},
	}
	cmd.Flags().StringVar(&o.format, "format", "svg", "form of the picture: svg, dot (Graphviz) or mermaid")
	completeWords(cmd, "format", "svg", "dot", "mermaid")
	return cmd
}

func draw(e *env, o graphOptions) error {
	form := map[string]func(*graph.Graph) string{
		"svg": (*graph.Graph).SVG, "dot": (*graph.Graph).DOT, "mermaid": (*graph.Graph).Mermaid,
	}[o.format]
	if form == nil {
		return usage(fmt.Errorf("--format is svg, dot or mermaid, not %q", o.format))
	}
	if err := e.resolve(); err != nil {
		return err
	}
	f, err := family.Load(e.Paths, o.family)
	if err != nil {
		return err
	}
	g, err := graph.New(f)
	if err != nil {
		return err
	}
	_, err = io.WriteString(e.Out, form(g))
	return err
}
