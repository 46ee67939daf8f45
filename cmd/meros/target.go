package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"meros/internal/family"
	"meros/internal/session"
)

// dial opens a connection to a target, by way of its master unless told not to.
func dial(ctx context.Context, e *env, fullID string, noMaster bool) (*session.Conn, error) {
	t, err := findTarget(e, fullID)
	if err != nil {
		return nil, err
	}
	return dialTarget(ctx, e, t, noMaster)
}

func findTarget(e *env, fullID string) (*family.Target, error) {
	if err := e.resolve(); err != nil {
		return nil, err
	}
	_, t, err := family.LoadTarget(e.Paths, fullID)
	return t, err
}

// guestStatus marks the errors after which there is no status of the guest to
// give on, whether it was never reached or was lost.
func guestStatus(err error) error {
	for _, sentinel := range []error{session.ErrUnreachable, session.ErrNoSession, session.ErrLost, session.ErrGuestLacks, session.ErrOtherSession} {
		if errors.Is(err, sentinel) {
			return unreached{err}
		}
	}
	return err
}

// size is a flag's value in bytes, written as 500M, 16G or 16GiB; units are
// powers of 1024.
type size int64

const sizeUnits = "KMGT"

// String implements pflag.Value.
func (s *size) String() string {
	n, unit := int64(*s), -1
	for n != 0 && n%1024 == 0 && unit < len(sizeUnits)-1 {
		n, unit = n/1024, unit+1
	}
	if unit < 0 {
		return strconv.FormatInt(n, 10)
	}
	return fmt.Sprintf("%d%ciB", n, sizeUnits[unit])
}

// Type implements pflag.Value.
func (s *size) Type() string { return "size" }

// Set implements pflag.Value.
func (s *size) Set(text string) error {
	digits, shift := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(text), "B"), "I"), 0
	for i, unit := range sizeUnits {
		if rest, ok := strings.CutSuffix(digits, string(unit)); ok {
			digits, shift = rest, 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 1 || n > (1<<62)>>shift {
		return errors.New("want a size such as 500M or 16GiB")
	}
	*s = size(n << shift)
	return nil
}
