package session

import (
	"context"
	"errors"
	"io"

	"golang.org/x/crypto/ssh"
)

// begin opens a session and has start set it up and start it. A target takes some ten
// on one connection, sshd_config(5), MaxSessions: where those of a master are used up,
// the session is on a connection of its own, which is returned. start may be called
// anew for it. Call end.
func (c *Conn) begin(ctx context.Context, start func(*ssh.Session) error) (on *Conn, sess *ssh.Session, end func(), err error) {
	sess, err = c.client.NewSession()
	if err == nil {
		if err = start(sess); err == nil {
			return c, sess, func() { _ = sess.Close() }, nil
		}
		_ = sess.Close()
	}
	if c.alone == nil || ctx.Err() != nil || !c.refused(err) {
		return c, nil, nil, c.fault(err)
	}
	own, err := c.alone(ctx)
	if err != nil {
		return c, nil, nil, err
	}
	_, sess, endSession, err := own.begin(ctx, start)
	if err != nil {
		return c, nil, nil, errors.Join(err, own.Close())
	}
	return own, sess, func() { endSession(); _ = own.Close() }, nil
}

// refused reports whether an error is a no to what was asked for, and not the end of
// a connection, after which it may have been done or not.
func (c *Conn) refused(err error) bool {
	return !errors.Is(err, io.EOF) && !c.pulse.ended.Load() && c.pulse.dead.Load() == nil
}
