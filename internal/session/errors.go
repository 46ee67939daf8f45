package session

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"meros/internal/ui"
)

var (
	// ErrUnreachable is wrapped by every failure before a login was accepted.
	ErrUnreachable = errors.New("not reached")
	// ErrHostKey is wrapped when the guest's host key is not the pinned one.
	ErrHostKey = errors.New("host key is not the pinned one")
	// ErrRefused is wrapped when the guest does not accept the client key.
	ErrRefused = errors.New("login refused")
	// ErrNotBuilt is wrapped when a target's keys are not there.
	ErrNotBuilt = errors.New("no keys")
	// ErrNoSession is wrapped when the recipe names no user or address.
	ErrNoSession = errors.New("no session")
	// ErrLost is wrapped when the connection ended before the work on it did.
	ErrLost = errors.New("connection lost")
)

// noStatus is what a command is taken to have ended with when its own status
// does not say: ssh(1), EXIT STATUS.
const noStatus = 255

// ExitError reports that a command or shell of the guest ended with a status
// other than 0.
type ExitError struct {
	Code   int    // as the guest gave it
	Signal string // the signal's name without SIG when one ended it, else ""
}

func (e *ExitError) Error() string {
	if e.Signal != "" {
		return "ended by signal " + oneLine(e.Signal)
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

// Status returns the exit status as a shell gives it: the command's own, 128+n
// after signal n, 255 if that is not one a process can have.
func (e *ExitError) Status() int {
	if e.Code < 1 || e.Code > noStatus {
		return noStatus
	}
	return e.Code
}

// exitError turns what Session.Wait says about an ended command into our words.
// Other errors are returned as they are.
func exitError(err error) error {
	exit, ok := errors.AsType[*ssh.ExitError](err)
	if !ok {
		return err
	}
	return &ExitError{Code: exit.ExitStatus(), Signal: exit.Signal()}
}

// guestError is an error that may hold words of the guest: one clean line.
type guestError struct{ error }

func (e guestError) Error() string { return oneLine(e.error.Error()) }
func (e guestError) Unwrap() error { return e.error }

// fromGuest makes an error's text safe to be part of a sentence of ours.
func fromGuest(err error) error {
	if err == nil {
		return nil
	}
	return guestError{err}
}

// maxWords bounds what a guest may say in one error, in bytes.
const maxWords = 300

// oneLine returns s clean, in one line, of bounded length.
func oneLine(s string) string {
	if len(s) > maxWords {
		s = strings.ToValidUTF8(s[:maxWords], "") + "…"
	}
	return strings.Join(strings.Fields(ui.Clean(s)), " ")
}
