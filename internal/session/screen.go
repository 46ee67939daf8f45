package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"meros/internal/hint"
	"meros/internal/proc"
)

// Display is a way to show a guest's windows on the host.
type Display string

// The ways.
const (
	DisplayAuto    Display = "auto"    // xpra, else waypipe; without X11 the other way round; by what host and guest have
	DisplayXpra    Display = "xpra"    // xpra seamless, which shows pictures of the windows
	DisplayX11     Display = "x11"     // the host's X server, as an untrusted client
	DisplayWaypipe Display = "waypipe" // the host's Wayland compositor
	DisplayNone    Display = "none"    // no windows
)

// Displays are all ways, in the words of the command line.
var Displays = []Display{DisplayAuto, DisplayXpra, DisplayX11, DisplayWaypipe, DisplayNone}

var (
	// ErrNoDisplay is wrapped when the host has no screen to show windows on, or
	// lacks the program that does.
	ErrNoDisplay = errors.New("no display")
	// ErrGuestLacks is wrapped when the guest lacks what shows its windows.
	ErrGuestLacks = errors.New("the guest lacks a program")
)

// Screen is where the host shows windows, and by what.
type Screen struct {
	ways    []Display // in the order they are to be tried; at least one
	xpra    version   // the host's, if ways has DisplayXpra
	display string    // DISPLAY
	wayland string    // WAYLAND_DISPLAY
}

// FindScreen finds out by what the host can show windows. It talks to no guest.
// The error wraps ErrNoDisplay.
func FindScreen(ctx context.Context, r proc.Runner, getenv func(string) string, want Display) (*Screen, error) {
	s := &Screen{display: getenv("DISPLAY"), wayland: getenv("WAYLAND_DISPLAY")}
	if want == DisplayNone {
		s.ways = []Display{want}
		return s, nil
	}
	if s.display == "" && s.wayland == "" {
		err := fmt.Errorf("%w: neither DISPLAY nor WAYLAND_DISPLAY is set, so there is no screen to show windows on", ErrNoDisplay)
		return nil, hint.Add(hint.Add(err, "call meros from a graphical session (with sudo, keep DISPLAY and XAUTHORITY)"),
			"for a program without windows: meros exec, or --display none")
	}
	var faults []error
	order := []Display{DisplayXpra, DisplayWaypipe, DisplayX11}
	if s.display == "" { // xpra draws on X11, and Debian's on nothing else
		order = []Display{DisplayWaypipe, DisplayXpra, DisplayX11}
	}
	for _, way := range order {
		// x11 lets the guest nearer to the host's screen: only who asks gets it.
		if way != want && (want != DisplayAuto || way == DisplayX11) {
			continue
		}
		if err := s.can(ctx, r, way); err != nil {
			faults = append(faults, err)
			continue
		}
		s.ways = append(s.ways, way)
	}
	if len(s.ways) == 0 {
		return nil, faults[0]
	}
	return s, nil
}

// Shows reports whether that way is to be tried before any other.
func (s *Screen) Shows(way Display) bool { return s.ways[0] == way }

// can reports why the host cannot show windows that way.
func (s *Screen) can(ctx context.Context, r proc.Runner, way Display) error {
	switch way {
	case DisplayXpra:
		return s.findXpra(ctx, r)
	case DisplayWaypipe:
		if s.wayland == "" {
			return hint.Add(fmt.Errorf("%w: waypipe needs a Wayland compositor, and WAYLAND_DISPLAY is not set", ErrNoDisplay), "--display xpra works on X11 too")
		}
		return hostLacks("waypipe", r.Run(ctx, proc.Cmd{Argv: []string{"waypipe", "--version"}}))
	case DisplayX11:
		if s.display == "" {
			return hint.Add(fmt.Errorf("%w: x11 needs an X server, and DISPLAY is not set", ErrNoDisplay), "try --display xpra")
		}
		return hostLacks("xauth", r.Run(ctx, proc.Cmd{Argv: []string{"xauth", "version"}}))
	}
	return nil
}

func hostLacks(program string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, proc.ErrNotFound) {
		err = errors.New("it is not installed")
	}
	err = fmt.Errorf("%w: run %s on the host: %w", ErrNoDisplay, program, err)
	if program == "xpra" {
		return hint.Add(err, "install xpra on the host: ./dist-conf.sh --with-xpra, or your package manager")
	}
	return hint.Add(err, "install %s on the host", program)
}

func (s *Screen) findXpra(ctx context.Context, r proc.Runner) error {
	var out bytes.Buffer
	if err := r.Run(ctx, proc.Cmd{Argv: []string{"xpra", "--version"}, Stdout: &out}); err != nil {
		return hostLacks("xpra", err)
	}
	var ok bool
	if s.xpra, ok = parseVersion(out.String()); !ok {
		return fmt.Errorf("%w: the host's xpra does not tell its version: %s", ErrNoDisplay, oneLine(out.String()))
	}
	return nil
}

// version is xpra's.
type version struct{ major, minor int }

func (v version) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

var versionForm = regexp.MustCompile(`(?:^|[^0-9.])([0-9]{1,4})\.([0-9]{1,4})`)

// parseVersion finds a version in what a program says of itself, which may be a
// guest's.
func parseVersion(s string) (v version, ok bool) {
	m := versionForm.FindStringSubmatch(s)
	if m == nil {
		return version{}, false
	}
	v.major, _ = strconv.Atoi(m[1])
	v.minor, _ = strconv.Atoi(m[2])
	return v, true
}

const (
	// oldestXpra is the first that these options are written for; Debian 12 has it.
	oldestXpra = 3
	// From version 5 on, xpra speaks only an encoding that came with version 4.
	strictXpra, speaksStrict = 5, 4
)

// compatible reports why two ends of xpra cannot work together.
func compatible(host, guest version) error {
	lower, higher := min(host.major, guest.major), max(host.major, guest.major)
	var err error
	switch {
	case lower < oldestXpra:
		err = fmt.Errorf("xpra is %s on the host and %s in the guest: both have to be %d.0 or newer", host, guest, oldestXpra)
	case higher >= strictXpra && lower < speaksStrict:
		err = fmt.Errorf("xpra is %s on the host and %s in the guest, which do not speak with each other", host, guest)
	default:
		return nil
	}
	return hint.Add(err, "bring the older one to %d.0 or newer; for the guest, in its recipe", speaksStrict)
}

// limited keeps the first bytes that are written to it.
type limited struct {
	bytes.Buffer
	left int
}

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	_, _ = l.Buffer.Write(p[:n])
	return len(p), nil
}

var _ io.Writer = (*limited)(nil)

// facts are lines of "name value" that a script of ours prints in the guest.
func facts(s string) map[string]string {
	known := map[string]string{}
	for line := range strings.Lines(s) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if ok {
			known[name] = value
		}
	}
	return known
}
