package graph

import (
	"fmt"
	"html"
	"strings"
)

// DOT returns the graph for Graphviz.
func (g *Graph) DOT() string {
	var b strings.Builder
	fmt.Fprintf(&b, "digraph %q {\n  rankdir=LR;\n  node [fontname=\"sans-serif\", fontsize=11];\n  edge [fontname=\"sans-serif\", fontsize=9];\n", g.family)
	for _, n := range g.nodes {
		shape := map[kind]string{world: "ellipse", network: "box, style=\"rounded,filled\", fillcolor=\"#e8eefb\"", target: "box"}[n.kind]
		fmt.Fprintf(&b, "  %s [shape=%s, label=%q];\n", n.id, shape, strings.Join(append([]string{n.title}, n.lines...), "\n"))
	}
	for _, l := range g.links {
		fmt.Fprintf(&b, "  %s -> %s [dir=none, label=%q];\n", l.network.id, l.end.id, l.label)
	}
	for _, a := range g.allows {
		fmt.Fprintf(&b, "  %s -> %s [color=\"#1a7f37\", fontcolor=\"#1a7f37\", constraint=false, label=%q];\n", a.from.id, a.to.id, a.label())
	}
	return b.String() + "}\n"
}

// Mermaid returns the graph as a flowchart.
func (g *Graph) Mermaid() string {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	for _, n := range g.nodes {
		around := map[kind][2]string{world: {"((", "))"}, network: {"([", "])"}, target: {"[", "]"}}[n.kind]
		var words []string
		for _, line := range append([]string{n.title}, n.lines...) {
			words = append(words, html.EscapeString(line))
		}
		fmt.Fprintf(&b, "  %s%s\"%s\"%s\n", n.id, around[0], strings.Join(words, "<br/>"), around[1])
	}
	for _, l := range g.links {
		label := ""
		if l.label != "" {
			label = "|\"" + html.EscapeString(l.label) + "\"|"
		}
		fmt.Fprintf(&b, "  %s ---%s %s\n", l.network.id, label, l.end.id)
	}
	for _, a := range g.allows {
		fmt.Fprintf(&b, "  %s -.->|\"%s\"| %s\n", a.from.id, html.EscapeString(a.label()), a.to.id)
	}
	return b.String()
}

// label is what of a line of the policy its two ends do not say.
func (a allow) label() string {
	_, label, _ := strings.Cut(a.text, ": ")
	if a.via != nil {
		label += " by way of " + a.via.title
	}
	return label
}
