package family

import (
	"errors"
	"fmt"
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
