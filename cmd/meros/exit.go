package main

import (
	"context"
	"errors"
	"io/fs"

	"meros/internal/family"
	"meros/internal/lifecycle"
	"meros/internal/proc"
	"meros/internal/session"
	"meros/internal/virt"
)

// The exit statuses of meros. exec and run give the guest's own instead,
// exitUnreached where they never got there, as ssh(1) does, and exec exitTimedOut
// after its --timeout, as timeout(1) does.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitRecipe      = 3
	exitHost        = 4
	exitNoSuch      = 5
	exitTimedOut    = 124
	exitInterrupted = 130
	exitUnreached   = 255
)

// usageError marks a wrong call.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func usage(err error) error { return usageError{err} }

// unreached marks a session that never got to the guest.
type unreached struct{ error }

func (u unreached) Unwrap() error { return u.error }

// timedOut marks the end of the time that the caller gave.
type timedOut struct{ error }

func (t timedOut) Unwrap() error { return t.error }

func isGuestStatus(err error) bool {
	_, ok := errors.AsType[*session.ExitError](err)
	return ok
}

func exitStatus(ctx context.Context, err error) int {
	if err == nil {
		return exitDone
	}
	if guest, ok := errors.AsType[*session.ExitError](err); ok {
		return guest.Status()
	}
	if _, ok := errors.AsType[timedOut](err); ok {
		return exitTimedOut
	}
	if ctx.Err() != nil || errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	return classify(err)
}

func classify(err error) int {
	is := func(sentinels ...error) bool {
		for _, s := range sentinels {
			if errors.Is(err, s) {
				return true
			}
		}
		return false
	}
	_, wrongCall := errors.AsType[usageError](err)
	_, faulty := errors.AsType[family.Faults](err)
	_, notReached := errors.AsType[unreached](err)
	switch {
	case wrongCall, is(family.ErrBadName):
		return exitUsage
	case is(family.ErrNotFound):
		return exitNoSuch
	case faulty:
		return exitRecipe
	case notReached:
		return exitUnreached
	case is(proc.ErrNotFound, virt.ErrUnreachable, lifecycle.ErrHostNotReady, session.ErrNoDisplay, fs.ErrPermission):
		return exitHost
	}
	return exitFailed
}
