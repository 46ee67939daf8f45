package stall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Time is how long a server may send nothing before it is given up.
const Time = 30 * time.Second

// ErrSilent is wrapped when nothing came for the time that a server had.
var ErrSilent = errors.New("nothing came")

// Do sends a request, as c.Do does. When nothing comes for the time limit, be it
// before the answer's header or while its body is read, the request is given up
// with an error that wraps ErrSilent. Errors do not repeat the address. Close the
// answer's body.
func Do(c *http.Client, req *http.Request, limit time.Duration) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(limit, func() { cancel(fmt.Errorf("%w for %s", ErrSilent, limit)) })
	resp, err := c.Do(req.WithContext(ctx))
	timer.Stop()
	if err != nil {
		err = because(ctx, err)
		cancel(nil)
		return nil, err
	}
	resp.Body = &body{resp.Body, ctx, cancel, timer, limit}
	return resp, nil
}

// because is what ended a request: the reason for which it was given up, if it was.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if told, ok := errors.AsType[*url.Error](err); ok {
		return told.Err
	}
	return err
}

// body is given up when a read takes too long. Time that its reader takes between
// two of them does not count.
type body struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limit  time.Duration
}

func (b *body) Read(p []byte) (int, error) {
	b.timer.Reset(b.limit)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		err = because(b.ctx, err)
	}
	return n, err
}

func (b *body) Close() error {
	b.timer.Stop()
	b.cancel(nil)
	return b.ReadCloser.Close()
}
