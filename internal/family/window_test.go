package family

import (
	"fmt"
	"testing"
)

func TestTrustColour(t *testing.T) {
	seen := map[string]bool{}
	for i := range 50 {
		target := &Target{Family: "mos_lab", Name: fmt.Sprintf("box%d", i)}
		colour := target.TrustColour()
		if err := CheckBorder(colour); err != nil || colour != target.TrustColour() {
			t.Errorf("%s: %s, %v", target.FullID(), colour, err)
		}
		seen[colour] = true
	}
	if len(seen) < 45 {
		t.Errorf("50 targets have %d colours", len(seen))
	}
	for _, name := range BorderColours {
		if rgb[name] == "" {
			t.Errorf("nothing says what %s is", name)
		}
	}
	black, white := &Target{Border: "black"}, &Target{Border: "#ffffff"}
	if black.LookAlike(white) || !white.LookAlike(&Target{Border: "white"}) {
		t.Error("black and white are not told apart as they are")
	}
}
