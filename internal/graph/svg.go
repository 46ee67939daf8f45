package graph

import (
	"fmt"
	"html"
	"slices"
	"strings"
)

// Sizes in pixels. Letters are taken to be charWidth wide at most, since nothing
// here knows the font that a viewer will have.
const (
	margin     = 28
	titleSize  = 15
	lineSize   = 12
	lineHeight = 17
	charWidth  = 7.2
	columnGap  = 170
	rowGap     = 34
	heading    = 44
)

// SVG returns the picture: the outside on the left, and to the right what is
// further from it.
func (g *Graph) SVG() string {
	g.arrange()
	width, height := g.extent()
	listTop := height + 8
	if g.policy {
		height = listTop + heading + lineHeight*max(1, len(g.allows))
		for _, a := range g.allows {
			width = max(width, 2*margin+40+int(charWidth*float64(len(a.text))))
		}
	}
	height += margin
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="Helvetica, Arial, sans-serif">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<title>The family %s</title>`+"\n"+`<rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n", html.EscapeString(g.family))
	b.WriteString(`<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="#1a7f37"/></marker></defs>` + "\n")
	text(&b, margin, margin+6, 18, "bold", "#1f2328", "", g.family)
	for _, l := range g.links {
		l.svg(&b)
	}
	g.outside(&b)
	g.arrows(&b) // behind the boxes, where a column has several
	for _, n := range g.nodes {
		n.svg(&b)
	}
	for _, l := range g.links {
		if l.label != "" {
			l.name(&b)
		}
	}
	if g.policy {
		g.list(&b, listTop)
	}
	return b.String() + "</svg>\n"
}

func text(b *strings.Builder, x, y, size int, weight, fill, anchor, s string) {
	if anchor != "" {
		anchor = ` text-anchor="` + anchor + `"`
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" font-size="%d" font-weight="%s" fill="%s"%s>%s</text>`+"\n", x, y, size, weight, fill, anchor, html.EscapeString(s))
}

// arrange gives each node its column, its row and its place.
func (g *Graph) arrange() {
	g.columns()
	columns := map[int][]*node{}
	last := 0
	for _, n := range g.nodes {
		n.w = int(max(float64(len(n.title))*charWidth*titleSize/lineSize, longest(n.lines)*charWidth)) + 32
		n.h = 28 + lineHeight*len(n.lines) + 8
		columns[n.column] = append(columns[n.column], n)
		last = max(last, n.column)
	}
	tallest := 0
	for _, list := range columns {
		tallest = max(tallest, heightOf(list))
	}
	x := margin
	for c := range last + 1 {
		list := columns[c]
		if len(list) == 0 {
			continue
		}
		g.order(list)
		widest := 0
		for _, n := range list {
			widest = max(widest, n.w)
		}
		y := heading + margin + (tallest-heightOf(list))/2
		for row, n := range list {
			n.row, n.w, n.x, n.y = row, widest, x, y
			y += n.h + rowGap
		}
		x += widest + columnGap
	}
	g.attach()
}

// attach spreads the links of a box's side over its height, in the order of what
// they lead to.
func (g *Graph) attach() {
	type side struct {
		n     *node
		right bool
	}
	meets := map[side][]*link{}
	for i := range g.links {
		l := &g.links[i]
		meets[side{l.network, l.end.x > l.network.x}] = append(meets[side{l.network, l.end.x > l.network.x}], l)
		meets[side{l.end, l.network.x > l.end.x}] = append(meets[side{l.end, l.network.x > l.end.x}], l)
	}
	for s, list := range meets {
		slices.SortStableFunc(list, func(a, b *link) int { return a.other(s.n).y - b.other(s.n).y })
		for i, l := range list {
			y := s.n.y + s.n.h*(i+1)/(len(list)+1)
			if l.network == s.n {
				l.networkY = y
			} else {
				l.endY = y
			}
		}
	}
}

func (l *link) other(n *node) *node {
	if l.network == n {
		return l.end
	}
	return l.network
}

// columns counts the steps from the outside. What has no way to it begins anew at
// the first network's column.
func (g *Graph) columns() {
	for _, n := range g.nodes {
		n.column = -1
		if n.kind == world {
			n.column = 1
			if n.id != "host" {
				n.column = 0
			}
		}
	}
	for {
		for changed := true; changed; {
			changed = false
			for _, l := range g.links {
				for _, pair := range [][2]*node{{l.network, l.end}, {l.end, l.network}} {
					if from, to := pair[0], pair[1]; from.column >= 0 && (to.column < 0 || to.column > from.column+1) && to.kind != world {
						to.column, changed = from.column+1, true
					}
				}
			}
		}
		left := slices.IndexFunc(g.nodes, func(n *node) bool { return n.column < 0 })
		if left < 0 {
			return
		}
		g.nodes[left].column = map[kind]int{network: 2, target: 3}[g.nodes[left].kind]
	}
}

// order puts nodes beside what they are linked to in the columns before.
func (g *Graph) order(list []*node) {
	centre := func(n *node) (sum int) {
		count := 0
		for _, l := range g.links {
			for _, pair := range [][2]*node{{l.network, l.end}, {l.end, l.network}} {
				if pair[0] == n && pair[1].column < n.column {
					sum, count = sum+pair[1].y+pair[1].h/2, count+1
				}
			}
		}
		return sum / max(1, count)
	}
	slices.SortStableFunc(list, func(a, b *node) int { return centre(a) - centre(b) })
}

func heightOf(list []*node) int {
	h := -rowGap
	for _, n := range list {
		h += n.h + rowGap
	}
	return h
}

func longest(lines []string) float64 {
	n := 0
	for _, l := range lines {
		n = max(n, len(l))
	}
	return float64(n)
}

func (g *Graph) extent() (width, height int) {
	width = 2*margin + 12*len(g.family)
	for _, n := range g.nodes {
		width, height = max(width, n.x+n.w+margin), max(height, n.y+n.h)
	}
	if len(g.allows) > 0 {
		width += gutter(len(g.allows))
	}
	if len(g.allows) > 0 {
		height += 18 * (len(g.allows) + 1) // room for the arrows below
	}
	return width, height + 12
}
