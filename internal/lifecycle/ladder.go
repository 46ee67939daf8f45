package lifecycle

import (
	"errors"
	"sync"
	"syscall"
	"time"

	"meros/internal/session"
	"meros/internal/ui"
)

// rung is how far a guest is on its way to a session.
type rung int

// The rungs, from the lowest. A guest whose console is silent skips some.
const (
	rungRunning rung = iota + 1 // libvirt runs the domain
	rungKernel                  // its kernel has printed something
	rungInit                    // so has its init, or its network is up
	rungPort                    // something accepts connections at its address
	rungKey                     // and has the host key that was pinned
	rungLogin                   // and lets in
)

var rungWords = map[rung]string{
	rungRunning: "domain running", rungKernel: "kernel up", rungInit: "init reached",
	rungPort: "port open", rungKey: "host key as pinned", rungLogin: "login accepted",
}

func (r rung) String() string { return rungWords[r] }

// climber is a guest on the ladder. What is shown of it is the highest rung that
// it was seen on.
type climber struct {
	line    *ui.Line
	started time.Time

	mu      sync.Mutex
	at      rung
	reached time.Time // when it came to this rung
	heard   time.Time // when its console printed something last
	said    time.Time // when something was shown last
}

func newClimber(line *ui.Line, started time.Time) *climber {
	c := &climber{line: line, started: started, heard: started}
	c.reach(rungRunning)
	return c
}

// now is the highest rung so far.
func (c *climber) now() rung {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// reach notes and shows a rung, unless the guest is beyond it.
func (c *climber) reach(r rung) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r <= c.at {
		return
	}
	c.at, c.reached, c.said = r, time.Now(), time.Now()
	if r < rungLogin { // of which the end of the line tells
		c.line.Stage(c.percent(), "%s after %s", r, c.elapsed())
	}
}

// hear notes that the console has printed something.
func (c *climber) hear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = time.Now()
}

// since is how long the guest has been on its rung, and its console silent.
func (c *climber) since() (at rung, onIt, silent time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at, time.Since(c.reached), time.Since(c.heard)
}

// wait says that the guest is still on its rung, where nothing redraws the line
// only now and then.
func (c *climber) wait(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	show := c.line.Now
	if time.Since(c.said) >= reportEvery {
		show, c.said = c.line.Stage, time.Now()
	}
	show(c.percent(), "%s, %s so far: %v", c.at, c.elapsed().Round(time.Second), why)
}

func (c *climber) percent() int { return 100 * int(c.at-1) / int(rungLogin) }

func (c *climber) elapsed() time.Duration {
	return time.Since(c.started).Round(100 * time.Millisecond)
}

// passed takes what an attempt to log in has behind it.
func (c *climber) passed(s session.Stage) {
	switch s {
	case session.StagePort:
		c.reach(rungPort)
	case session.StageHostKey:
		c.reach(rungKey)
	}
}

// knocked takes why an attempt to log in failed. An address that refuses a
// connection has a network, which init brings up.
func (c *climber) knocked(err error) {
	if errors.Is(err, syscall.ECONNREFUSED) {
		c.reach(rungInit)
	}
}
