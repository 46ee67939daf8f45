package prober

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
)

// Order is what a probe is to do.
type Order struct {
	Shots  []Shot        `json:"shots"`
	Frames []Raw         `json:"frames"` // only root of the guest can send them
	Every  time.Duration `json:"every"`  // 0: once; else again and again, until the input ends
}

// Shot is a packet that any user may send.
type Shot struct {
	ID     int        `json:"id"`
	Proto  string     `json:"proto"` // tcp, udp or icmp
	To     netip.Addr `json:"to"`
	Port   uint16     `json:"port,omitempty"`
	Source uint16     `json:"source,omitempty"` // of tcp and udp
	Token  string     `json:"token"`            // what udp and icmp carry
}

// Raw is a frame as it stands.
type Raw struct {
	ID    int    `json:"id"`
	MAC   string `json:"mac"` // of the guest's link that sends it
	Frame []byte `json:"frame"`
}

// Outcome is how a shot went, as the guest says.
type Outcome string

// The outcomes.
const (
	Answered Outcome = "answered"
	Refused  Outcome = "refused" // somebody said no
	Silent   Outcome = "silent"  // sent, and nothing came back
	Unsent   Outcome = "unsent"  // the guest's own kernel did not send it
	Barred   Outcome = "barred"  // nor may its user have it sent
)

// Said is a line of what a probe says.
type Said struct {
	ID      int     `json:"id,omitempty"`
	Outcome Outcome `json:"outcome,omitempty"`
	Why     string  `json:"why,omitempty"`  // of unsent and barred: printable, one line
	Root    bool    `json:"root,omitempty"` // it can send frames as they stand
	Round   int     `json:"round,omitempty"`
}

const (
	// longestLine and mostLines bound what is taken of a guest: many times what an
	// honest one says.
	longestLine = 1 << 10
	mostLines   = 1 << 20
	longestWhy  = 160
)

// Listen reads what a probe says until its output ends, and hands each line that is
// about one of the order's shots to each. The first line that no probe would write
// ends it with an error.
func Listen(r io.Reader, o Order, each func(Said)) error {
	known := map[int]bool{0: true}
	for _, s := range o.Shots {
		known[s.ID] = true
	}
	for _, f := range o.Frames {
		known[f.ID] = true
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, longestLine), longestLine)
	for n := 0; lines.Scan(); n++ {
		if n >= mostLines {
			return errors.New("the guest's probe says too much")
		}
		said, err := parse(lines.Bytes())
		if err != nil {
			return err
		}
		if !known[said.ID] {
			return fmt.Errorf("the guest's probe speaks of %d, which it was not asked to send", said.ID)
		}
		each(said)
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("the guest's probe says a line of more than %d bytes", longestLine)
	}
	return lines.Err()
}

// parse reads one line, strictly.
func parse(line []byte) (Said, error) {
	var s Said
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil || d.More() {
		return Said{}, fmt.Errorf("the guest's probe says what no probe says: %q", line[:min(len(line), longestWhy)])
	}
	switch s.Outcome {
	case Answered, Refused, Silent, Unsent, Barred:
	case "":
		if s.ID != 0 {
			return Said{}, fmt.Errorf("the guest's probe says nothing of %d", s.ID)
		}
	default:
		return Said{}, fmt.Errorf("the guest's probe says %q of a shot", shorten(string(s.Outcome)))
	}
	if s.ID < 0 || s.Round < 0 || s.ID == 0 && s.Outcome != "" {
		return Said{}, errors.New("the guest's probe counts below nothing")
	}
	s.Why = shorten(s.Why)
	return s, nil
}

// shorten makes one printable line of ASCII of what a guest wrote.
func shorten(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), longestWhy)]
}
