package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"

	"meros/internal/family"
	"meros/internal/session"
	"meros/internal/ui"
)

// maxAtOnce is on how many targets a command runs at the same time.
const maxAtOnce = 8

// isPattern reports whether a word means many targets. None of these characters
// can be in a full id.
func isPattern(fullID string) bool { return strings.ContainsAny(fullID, "*?[,") }

// matching returns the targets with a session that a pattern means: full ids with
// * ? and [ ] as in a shell, several parted by commas. Each of them has to mean a
// target, so that one which is misspelt is not left out.
func matching(e *env, pattern string) ([]*family.Target, error) {
	all, err := findTargets(e, nil)
	if err != nil {
		return nil, err
	}
	words := strings.Split(pattern, ",")
	met := make([]bool, len(words))
	var found []*family.Target
	for _, t := range all {
		isMeant := false
		for i, word := range words {
			ok, err := path.Match(word, t.FullID())
			if err != nil {
				return nil, usage(fmt.Errorf("exec: %q is no pattern", word))
			}
			if ok && t.HasSession() {
				met[i], isMeant = true, true
			}
		}
		if isMeant {
			found = append(found, t)
		}
	}
	if i := slices.Index(met, false); i >= 0 {
		return nil, fmt.Errorf("%w: no target with a session is called %q", family.ErrNotFound, words[i])
	}
	return found, nil
}

// executeMany runs a command on many targets, and returns the worst status.
func executeMany(ctx context.Context, e *env, o execOptions, eo session.ExecOptions) error {
	if o.tty {
		return usage(errors.New("exec: --tty is for one target"))
	}
	targets, err := matching(e, o.fullID)
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	var writing sync.Mutex
	slots, statuses := make(chan struct{}, maxAtOnce), make([]int, len(targets))
	for i, t := range targets {
		running.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			out := &prefixed{mu: &writing, w: e.Out, prefix: t.FullID() + ": "}
			errs := &prefixed{mu: &writing, w: e.Err, prefix: t.FullID() + ": "}
			err := executeOn(ctx, e, t, o, &ui.Streams{Out: out, Err: errs}, eo)
			out.end()
			errs.end()
			statuses[i] = exitStatus(ctx, err)
			if isGuestStatus(err) {
				_ = errs.line([]byte(err.Error()))
				return
			}
			writing.Lock()
			defer writing.Unlock()
			report(e.Streams, err)
		})
	}
	running.Wait()
	worst := 0
	for _, status := range statuses {
		worst = max(worst, status)
	}
	if worst == 0 {
		return nil
	}
	return &session.ExitError{Code: worst} // each error was told
}

// executeOn runs a command on one target, from now on for as long as it may take.
func executeOn(ctx context.Context, e *env, t *family.Target, o execOptions, s *ui.Streams, eo session.ExecOptions) error {
	if o.user != "" && o.user != t.User {
		return unreached{fmt.Errorf("exec on %s as %s: the recipe lets in %s alone", t.FullID(), o.user, t.User)}
	}
	if o.timeout > 0 {
		var cancel context.CancelFunc
		cause := timedOut{fmt.Errorf("exec on %s: not done after %s", t.FullID(), o.timeout)}
		ctx, cancel = context.WithTimeoutCause(ctx, o.timeout, cause)
		defer cancel()
	}
	c, err := dialTarget(ctx, e, t, o.noMaster)
	if err != nil && ctx.Err() != nil {
		return unreached{err}
	}
	if err != nil {
		return guestStatus(err)
	}
	defer c.Close()
	return guestStatus(session.Exec(ctx, c, s, o.argv, eo))
}

// prefixed writes whole lines, each with a prefix, clean: many guests write to
// one stream.
type prefixed struct {
	mu     *sync.Mutex
	w      io.Writer
	prefix string
	rest   []byte
}

// maxLine is from how many bytes on a line is written although it has no end.
const maxLine = 64 << 10

// Write implements io.Writer.
func (p *prefixed) Write(b []byte) (int, error) {
	p.rest = append(p.rest, b...)
	for {
		line, rest, whole := bytes.Cut(p.rest, []byte("\n"))
		if !whole && len(p.rest) < maxLine {
			return len(b), nil
		}
		p.rest = rest
		if err := p.line(line); err != nil {
			return len(b), err
		}
	}
}

func (p *prefixed) line(line []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := io.WriteString(p.w, p.prefix+ui.Clean(string(line))+"\n")
	return err
}

// end writes what came after the last line.
func (p *prefixed) end() {
	if len(p.rest) > 0 {
		_ = p.line(p.rest)
		p.rest = nil
	}
}
