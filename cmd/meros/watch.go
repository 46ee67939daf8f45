package main

import (
	"bytes"
	"context"
	"slices"
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
		// Shown at once, so that nothing flickers.
		var page bytes.Buffer
		paged := *e
		paged.Streams = &ui.Streams{In: e.In, Out: &page, Err: e.Err, Verbose: e.Verbose, Quiet: e.Quiet}
		err := info(ctx, &paged, o)
		if err == nil {
			_, err = e.Out.Write(inPlace(page.Bytes(), isTerminal))
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(watchEvery):
		}
	}
}

// inPlace is a page that a terminal shows over the one before it (ECMA-48: CUP, EL,
// ED).
func inPlace(page []byte, isTerminal bool) []byte {
	if !isTerminal {
		return page
	}
	page = bytes.ReplaceAll(page, []byte("\n"), []byte("\x1b[K\n"))
	return slices.Concat([]byte("\x1b[H"), page, []byte("\x1b[J"))
}
