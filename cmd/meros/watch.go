package main

import (
	"context"
	"fmt"
	"time"

	"meros/internal/ui"
)

// watchEvery is how often info --watch looks again.
const watchEvery = 2 * time.Second

// watchInfo shows the info again and again until ctx ends: on a terminal in place,
// else one after the other.
func watchInfo(ctx context.Context, e *env, o infoOptions) error {
	_, isTerminal := ui.Terminal(e.Out)
	for {
		if isTerminal {
			fmt.Fprint(e.Out, "\x1b[H\x1b[2J") // to the corner, and clear (ECMA-48)
		}
		if err := info(ctx, e, o); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(watchEvery):
		}
	}
}
