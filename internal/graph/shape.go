package graph

import (
	"fmt"
	"html"
	"strings"
)

// Colours: networks blue, targets white with their trust colour at the side, the
// outside grey, what is allowed green.
const (
	ink   = "#1f2328"
	faint = "#59636e"
	blue  = "#3b6fd4"
	green = "#1a7f37"
)

func (n *node) svg(b *strings.Builder) {
	fill, stroke, radius := "#ffffff", "#8c959f", 8
	switch n.kind {
	case network:
		fill, stroke, radius = "#e8effc", blue, n.h/2
	case world:
		fill, stroke, radius = "#eff1f3", "#8c959f", n.h/2
	}
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%d" rx="%d" fill="%s" stroke="%s" stroke-width="1.5"/>`+"\n", n.x, n.y, n.w, n.h, min(radius, 22), fill, stroke)
	if n.kind == target {
		colour := n.border
		if colour == "" {
			colour = "#8c959f"
		}
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="6" height="%d" rx="3" fill="%s"/>`+"\n", n.x+4, n.y+6, n.h-12, html.EscapeString(colour))
	}
	middle := n.x + n.w/2
	text(b, middle, n.y+21, titleSize, "bold", ink, "middle", n.title)
	for i, line := range n.lines {
		text(b, middle, n.y+21+lineHeight*(i+1), lineSize, "normal", faint, "middle", line)
	}
}

// svg draws a link from side to side, with the address beside the target.
func (l link) svg(b *strings.Builder) {
	left, right := l.network, l.end
	if left.x > right.x {
		left, right = right, left
	}
	x1, y1, x2, y2 := left.x+left.w, left.y+left.h/2, right.x, right.y+right.h/2
	fmt.Fprintf(b, `<path d="M%d %dC%d %d %d %d %d %d" fill="none" stroke="%s" stroke-width="2"/>`+"\n",
		x1, y1, x1+columnGap/2, y1, x2-columnGap/2, y2, x2, y2, blue)
	if l.label == "" {
		return
	}
	if l.end == right {
		text(b, x2-6, y2-7, lineSize, "bold", blue, "end", l.label)
	} else {
		text(b, x1+6, y1-7, lineSize, "bold", blue, "start", l.label)
	}
}

// outside ties the host to the internet where it forwards.
func (g *Graph) outside(b *strings.Builder) {
	var host *node
	for _, n := range g.nodes {
		if n.id == "host" {
			host = n
		}
	}
	for _, n := range g.nodes {
		if host != nil && n.kind == world && n != host {
			link{n, host, ""}.svg(b)
		}
	}
}

// arrows draws what is allowed, each below the boxes at a height of its own and
// with the number that it has in the list.
func (g *Graph) arrows(b *strings.Builder) {
	bottom := 0
	for _, n := range g.nodes {
		bottom = max(bottom, n.y+n.h)
	}
	for i, a := range g.allows {
		y := bottom + 18*(i+1)
		x1, x2 := a.foot(a.from, i, len(g.allows)), a.foot(a.to, i, len(g.allows))
		fmt.Fprintf(b, `<path d="M%d %dV%dH%dV%d" fill="none" stroke="%s" stroke-width="1.6" stroke-linejoin="round" marker-end="url(#arrow)"/>`+"\n",
			x1, a.from.y+a.from.h, y, x2, a.to.y+a.to.h, green)
		middle := (x1 + x2) / 2
		fmt.Fprintf(b, `<circle cx="%d" cy="%d" r="9" fill="%s"/>`+"\n", middle, y, green)
		text(b, middle, y+4, 11, "bold", "#ffffff", "middle", fmt.Sprint(i+1))
	}
}

// foot is where an arrow meets a box's lower side.
func (a allow) foot(n *node, i, of int) int { return n.x + 16 + (n.w-32)*(i+1)/(of+1) }

func (g *Graph) list(b *strings.Builder, top int) {
	text(b, margin, top+18, titleSize, "bold", ink, "", "What the policy allows; all else is dropped")
	if len(g.allows) == 0 {
		text(b, margin, top+heading, lineSize, "normal", faint, "", "nothing")
	}
	for i, a := range g.allows {
		text(b, margin+20, top+heading+lineHeight*i, lineSize, "bold", green, "end", fmt.Sprint(i+1))
		text(b, margin+30, top+heading+lineHeight*i, lineSize, "normal", ink, "", a.text)
	}
}
