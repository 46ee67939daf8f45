package lifecycle

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestQEMUEvents(t *testing.T) {
	b := newDiskBench(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seen := make(chan Event, 20)
	ended := make(chan error, 1)
	go func() { ended <- b.Events(ctx, func(e Event) error { seen <- e; return nil }) }()
	time.Sleep(500 * time.Millisecond) // until it listens
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatalf("%v\n%s", err, b.said)
	}
	b.cleanUp()
	got := map[string]string{}
	for got["off"] == "" {
		select {
		case e := <-seen:
			if got[e.Event] = e.Why + "."; e.FullID != b.family+"-box" || e.Version != EventVersion {
				t.Errorf("event %+v", e)
			}
		case <-ctx.Done():
			t.Fatalf("no end was told of: %q", got)
		}
	}
	if got["started"] == "" || got["off"] != "its power was cut." {
		t.Errorf("events: %q", got)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Events = %v, want context.Canceled", err)
	}
}

// Who cannot write what is told ends it.
func TestQEMUEventsEndWithTheirReader(t *testing.T) {
	b := newDiskBench(t)
	full := errors.New("the disk is full")
	ended := make(chan error, 1)
	go func() { ended <- b.Events(t.Context(), func(Event) error { return full }) }()
	time.Sleep(500 * time.Millisecond) // until it listens
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatalf("%v\n%s", err, b.said)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, full) {
			t.Errorf("Events = %v, want it to end with %v", err, full)
		}
	case <-time.After(time.Minute):
		t.Error("Events goes on")
	}
}
