package main

import (
	"context"
	"errors"
)

// inDisposable starts a disposable guest, calls body, and ends the guest however
// body ended: its power is cut, since nothing in it is to be kept.
func inDisposable(ctx context.Context, e *env, fullID string, body func() error) (err error) {
	err = initGuests(ctx, e, initOptions{name: fullID, timeout: initTimeout, disposable: true, fresh: true})
	if err != nil {
		return unreached{err}
	}
	defer func() {
		err = errors.Join(err, shutdown(context.WithoutCancel(ctx), e, shutdownOptions{name: fullID, force: true}))
	}()
	return body()
}
