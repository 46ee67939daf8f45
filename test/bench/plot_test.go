package bench

import (
	"bytes"
	"fmt"
	"strings"
)

// Pixels of the plot.
const (
	plotWidth = 720
	rowHeight = 26
	labelEnd  = 220
	barRoom   = 420
)

// plot draws a bar for each way, meros's own apart in colour, as SVG that needs
// neither scripts nor fonts of its own.
func (r *report) plot() []byte {
	var rows []way
	longest := 0.0
	for _, w := range ways {
		if r.wall(w.name) > 0 {
			rows = append(rows, w)
			longest = max(longest, r.wall(w.name))
		}
	}
	var svg bytes.Buffer
	fmt.Fprintf(&svg, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"13\">\n", plotWidth, rowHeight*len(rows)+40)
	fmt.Fprintf(&svg, "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n<text x=\"%d\" y=\"20\" fill=\"#333\">seconds, medians; shorter is better</text>\n", labelEnd)
	for i, w := range rows {
		bar(&svg, 32+i*rowHeight, w, r.wall(w.name), longest)
	}
	svg.WriteString("</svg>\n")
	return svg.Bytes()
}

func bar(svg *bytes.Buffer, y int, w way, seconds, longest float64) {
	colour := "#9aa5b1"
	if strings.HasPrefix(w.name, "meros") {
		colour = "#1f6feb"
	}
	width := max(1, seconds/longest*barRoom)
	fmt.Fprintf(svg, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\" fill=\"#333\">%s</text>\n", labelEnd-8, y+15, w.name)
	fmt.Fprintf(svg, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"18\" fill=%q/>\n", labelEnd, y+1, width, colour)
	fmt.Fprintf(svg, "<text x=\"%.1f\" y=\"%d\" fill=\"#333\">%.2f</text>\n", labelEnd+width+6, y+15, seconds)
}
