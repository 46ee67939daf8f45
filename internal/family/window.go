package family

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"regexp"
	"slices"
	"strings"
)

// BorderColours are the names that a trust colour can have: the basic ones of
// CSS and a few that are told apart at a glance.
var BorderColours = []string{
	"red", "green", "blue", "yellow", "orange", "purple", "magenta", "cyan", "lime", "maroon", "navy", "olive", "teal",
	"pink", "brown", "black", "gray", "silver", "white",
}

// rgb is what these names stand for: CSS Color Module Level 4, 6.1.
var rgb = map[string]string{
	"red": "#ff0000", "green": "#008000", "blue": "#0000ff", "yellow": "#ffff00", "orange": "#ffa500", "purple": "#800080",
	"magenta": "#ff00ff", "cyan": "#00ffff", "lime": "#00ff00", "maroon": "#800000", "navy": "#000080", "olive": "#808000",
	"teal": "#008080", "pink": "#ffc0cb", "brown": "#a52a2a", "black": "#000000", "gray": "#808080", "silver": "#c0c0c0", "white": "#ffffff",
}

// TrustColour is what frames the target's windows: a name of BorderColours or
// #rrggbb. Where the recipe has none, it is always the same one for a full id,
// bright, of a hue that its hash picks.
func (t *Target) TrustColour() string {
	if t.Border != "" {
		return t.Border
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(t.FullID()))
	sum := h.Sum32()
	hue := float64(sum%360) / 60
	light := []float64{1, 0.75, 0.55}[sum/360%3]
	channel := func(shift float64) uint8 {
		// Six sixths of the circle: rising, two high, falling, two low.
		at := math.Mod(hue+shift, 6)
		part := math.Max(0, math.Min(1, math.Abs(at-3)-1))
		return uint8(math.Round(255 * light * part))
	}
	return fmt.Sprintf("#%02x%02x%02x", channel(0), channel(4), channel(2))
}

// nearColours is up to which distance two colours, as points of red, green and blue, are
// taken for each other in a frame of a few pixels.
const nearColours = 64

// LookAlike reports whether the frames of two targets are easily taken for each other.
func (t *Target) LookAlike(other *Target) bool {
	sum := 0
	a, b := t.channels(), other.channels()
	for i := range a {
		sum += (a[i] - b[i]) * (a[i] - b[i])
	}
	return sum < nearColours*nearColours
}

func (t *Target) channels() (c [3]int) {
	colour := t.TrustColour()
	if named, ok := rgb[colour]; ok {
		colour = named
	}
	_, _ = fmt.Sscanf(colour, "#%02x%02x%02x", &c[0], &c[1], &c[2])
	return c
}

// RunFeatures are the words for what a guest's windows may do on the host more
// than show themselves. All are off unless a recipe or a call names them.
var RunFeatures = []string{
	"clipboard-to-guest", "clipboard-to-host", "audio", "microphone", "webcam", "printing", "files", "urls",
	"notifications", "dbus", "tray",
}

var colourForm = regexp.MustCompile(`^#[0-9a-f]{6}$`)

func border(s string) (string, error) {
	if !colourForm.MatchString(s) && !slices.Contains(BorderColours, s) {
		return "", fmt.Errorf("must be #rrggbb or one of %s", strings.Join(BorderColours, ", "))
	}
	return s, nil
}

// CheckBorder reports why s cannot be a trust colour.
func CheckBorder(s string) error {
	if _, err := border(s); err != nil {
		return fmt.Errorf("%w, got %s", err, show(s))
	}
	return nil
}

func runAllow(s string) ([]string, error) {
	words := strings.Fields(s)
	for _, word := range words {
		if !slices.Contains(RunFeatures, word) {
			return nil, errors.New("may have " + strings.Join(RunFeatures, ", "))
		}
	}
	return words, nil
}

// ParseRunFeatures takes a list of RunFeatures, separated by commas or blanks.
func ParseRunFeatures(s string) ([]string, error) {
	words, err := runAllow(strings.ReplaceAll(s, ",", " "))
	if err != nil {
		return nil, fmt.Errorf("%w, got %s", err, show(s))
	}
	return words, nil
}
