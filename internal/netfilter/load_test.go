package netfilter

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"meros/internal/hint"
	"meros/internal/proc"
)

// ordinary is a host on which nft is run by an ordinary user.
type ordinary struct{}

func (ordinary) Run(_ context.Context, c proc.Cmd) error {
	return &proc.ExitError{Argv: c.Argv, Code: 1, Stderr: "Operation not permitted (you must be root)\nnetlink: Error: cache initialization failed: Operation not permitted\n"}
}

func TestOrdinaryUserIsToldThatRootIsNeeded(t *testing.T) {
	if _, err := proc.Find("nft"); err != nil {
		t.Skip(err)
	}
	_, err := Listing(t.Context(), ordinary{}, "mos_x")
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(strings.Join(hint.Of(err), " "), "sudo") {
		t.Errorf("Listing = %v, hints %q", err, hint.Of(err))
	}
}
