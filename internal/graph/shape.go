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

// svg draws a link from side to side.
func (l link) svg(b *strings.Builder) {
	left, right, y1, y2 := l.network, l.end, l.networkY, l.endY
	if left.x > right.x {
		left, right, y1, y2 = right, left, y2, y1
	}
	// Below its label the line is straight.
	x1, x2, straight := left.x+left.w, right.x, l.labelWidth()
	if left == l.end {
		fmt.Fprintf(b, `<path d="M%d %dH%d`, x1, y1, x1+straight)
		x1 += straight
	} else {
		fmt.Fprintf(b, `<path d="M%d %d`, x1, y1)
		x2 -= straight
	}
	bend := (x2 - x1) / 2
	fmt.Fprintf(b, `C%d %d %d %d %d %dH%d" fill="none" stroke="%s" stroke-width="2"/>`+"\n",
		x1+bend, y1, x2-bend, y2, x2, y2, right.x, blue)
}

// labelWidth is what a label takes of the gap between two columns.
func (l link) labelWidth() int {
	if l.label == "" {
		return 0
	}
	return min(int(charWidth*float64(len(l.label)))+8, columnGap-50)
}

// name writes a link's address beside the target, upon what crosses it.
func (l link) name(b *strings.Builder) {
	x, anchor := l.end.x-6, "end"
	if l.end.x < l.network.x {
		x, anchor = l.end.x+l.end.w+6, "start"
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" font-size="%d" font-weight="bold" fill="%s" text-anchor="%s" stroke="#ffffff" stroke-width="4" paint-order="stroke">%s</text>`+"\n",
		x, l.endY-6, lineSize, blue, anchor, html.EscapeString(l.label))
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
			link{network: n, end: host, networkY: n.y + n.h/2, endY: host.y + host.h/2}.svg(b)
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
		lane := bottom + 18*(i+1)
		from, to := g.foot(a.from, i), g.foot(a.to, i)
		fmt.Fprintf(b, `<path d="M%d %dH%dV%dH%dV%dH%d" fill="none" stroke="%s" stroke-width="1.6" stroke-linejoin="round" marker-end="url(#arrow)"/>`+"\n",
			from.x, from.y, from.down, lane, to.down, to.y, to.x, green)
		middle := (from.down + to.down) / 2
		fmt.Fprintf(b, `<circle cx="%d" cy="%d" r="9" fill="%s"/>`+"\n", middle, lane, green)
		text(b, middle, lane+4, 11, "bold", "#ffffff", "middle", fmt.Sprint(i+1))
	}
}

// foot is where an arrow meets a box, and where it goes down from there.
type foot struct{ x, y, down int }

// gutter is the room beside a column that n arrows take.
func gutter(n int) int { return 8 + 8*n }

// foot lets an arrow meet the lower side of a box with none below it, and else its
// right side, so that no arrow runs behind a box that it has nothing to do with.
func (g *Graph) foot(n *node, i int) foot {
	share := func(from, length int) int { return from + length*(i+1)/(len(g.allows)+1) }
	for _, m := range g.nodes {
		if m.column == n.column && m.y > n.y {
			return foot{n.x + n.w, share(n.y+n.h/2, n.h/2), n.x + n.w + gutter(i+1)}
		}
	}
	x := share(n.x+12, n.w-24)
	return foot{x, n.y + n.h, x}
}

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
