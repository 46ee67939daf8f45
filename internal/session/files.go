package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"meros/internal/hint"
)

const (
	// requestsPerFile is how many packets of a file are under way at once.
	requestsPerFile = 64
	packetSize      = 32 << 10 // bytes of a file in a packet; every server takes that

	// OpenSSH's server takes 255 KiB in a packet, and says that it has such limits
	// (PROTOCOL, limits@openssh.com). A guest has less to do for few large packets than
	// for many small ones: whole pages of them.
	largePacketSize     = 252 << 10
	largePacketsPerFile = requestsPerFile * packetSize / largePacketSize
	limitsOfOpenSSH     = "limits@openssh.com"
)

// files opens the guest's SFTP server. When ctx ends, the connection is closed
// after grace, which ends what is under way. Call stop.
func (c *Conn) files(ctx context.Context, grace time.Duration) (client *sftp.Client, stop func(), err error) {
	on, w, r, end, err := c.startSFTP(ctx, grace)
	if err != nil {
		return nil, nil, err
	}
	client, err = sftp.NewClientPipe(r, w,
		sftp.UseConcurrentWrites(true), sftp.UseFstat(true),
		sftp.MaxPacketChecked(packetSize), sftp.MaxConcurrentRequestsPerFile(requestsPerFile))
	if err != nil {
		end()
		return nil, nil, noSFTP(on.fault(err))
	}
	if _, ok := client.HasExtension(limitsOfOpenSSH); ok {
		for _, set := range []sftp.ClientOption{sftp.MaxPacketUnchecked(largePacketSize), sftp.MaxConcurrentRequestsPerFile(largePacketsPerFile)} {
			if err := set(client); err != nil {
				err = errors.Join(err, client.Close())
				end()
				return nil, nil, err
			}
		}
	}
	return client, func() { _ = client.Close(); end() }, nil
}

// startSFTP starts an SFTP server in the guest. When ctx ends, the connection is
// closed after grace, and at once when the server owes an answer for too long. Call
// end.
func (c *Conn) startSFTP(ctx context.Context, grace time.Duration) (on *Conn, w io.WriteCloser, r io.Reader, end func(), err error) {
	closeWith := func(c *Conn) (stop func() bool) {
		return context.AfterFunc(ctx, func() {
			time.AfterFunc(grace, func() { _ = c.pulse.Conn.Close() })
		})
	}
	unwatch := closeWith(c)
	on, _, endSession, err := c.begin(ctx, func(sess *ssh.Session) (err error) {
		if w, err = sess.StdinPipe(); err != nil {
			return err
		}
		if r, err = sess.StdoutPipe(); err != nil {
			return err
		}
		return sess.RequestSubsystem("sftp")
	})
	if err != nil {
		unwatch()
		return c, nil, nil, nil, noSFTP(err)
	}
	if on != c {
		unwatch()
		unwatch = closeWith(on)
	}
	e := newExchange(on.pulse)
	watched, unwatched := context.WithCancel(ctx)
	go e.watch(watched)
	return on, askedTo{w, e}, answeredBy{r, e}, func() { unwatched(); unwatch(); endSession() }, nil
}

// homeDir returns a folder of the guest that a person names as a path from the
// user's home, which is where an SFTP server starts, with what to call it.
func homeDir(named, otherwise string) (dir, label string, err error) {
	if named == "" {
		named = otherwise
	}
	rest, tilde := strings.CutPrefix(named, "~")
	switch {
	case tilde && rest != "" && rest[0] != '/':
		return "", "", fmt.Errorf("%q is the home of another user: want a path from ~ or from /", named)
	case strings.ContainsRune(named, 0):
		return "", "", fmt.Errorf("%q %w", named, errNUL)
	case tilde:
		dir = path.Clean("./" + rest)
	default:
		dir = path.Clean(named)
	}
	switch {
	case dir == "." || dir == "/":
		label = strings.Replace(dir, ".", "~/", 1)
	case path.IsAbs(dir):
		label = dir + "/"
	default:
		label = "~/" + dir + "/"
	}
	return dir, label, nil
}

func noSFTP(err error) error {
	return hint.Add(fmt.Errorf("start the guest's SFTP server: %w", err),
		"the guest's sshd_config needs a line such as: Subsystem sftp internal-sftp")
}

// causeOr returns why ctx ended, if it did, else err: what an operation says
// that was cut off is of no interest.
func causeOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
