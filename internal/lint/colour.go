package lint

import "fmt"

// colours finds targets whose windows one takes for another's.
func (l *linter) colours() {
	for i, t := range l.family.Targets {
		for _, other := range l.family.Targets[:i] {
			if t.HasSession() && other.HasSession() && t.LookAlike(other) {
				l.add("build/"+t.Name+".xml", 0, fmt.Sprintf("its trust colour %s is nearly that of %s, %s", t.TrustColour(), other.Name, other.TrustColour()),
					"the frame is how one sees on the host which guest a window is of", `give one of them another: <details border="…" />`)
			}
		}
	}
}
