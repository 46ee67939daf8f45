package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"meros/internal/ui"
)

// dialGuest connects to a stream socket in the guest: network is unix or tcp.
func (c *Conn) dialGuest(network, addr string) (net.Conn, error) {
	conn, err := c.client.Dial(network, addr)
	if err != nil {
		return nil, c.fault(err)
	}
	return conn, nil
}

// relay joins each connection that l takes with one that dial opens, until ctx
// ends or l does. It closes l, and returns once all it had joined are closed.
// check may refuse a connection; fault is told what went wrong with one.
func relay(ctx context.Context, l net.Listener, check func(net.Conn) error, dial func() (net.Conn, error), fault func(error)) {
	var joined sync.WaitGroup
	defer joined.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		near, err := l.Accept()
		if err != nil {
			return
		}
		if err := check(near); err != nil {
			fault(err)
			_ = near.Close()
			continue
		}
		joined.Go(func() {
			defer ui.Guard()
			far, err := dial()
			if err != nil {
				fault(err)
				_ = near.Close()
				return
			}
			join(ctx, near, far)
		})
	}
}

// join copies both ways until both ways have ended, or ctx has.
func join(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = a.Close(); _ = b.Close() })
	defer stop()
	var ways sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		ways.Go(func() {
			defer ui.Guard()
			_, err := io.Copy(way[1], way[0])
			half, ok := way[1].(interface{ CloseWrite() error })
			if err != nil || !ok || half.CloseWrite() != nil {
				_, _ = way[0].Close(), way[1].Close()
			}
		})
	}
	ways.Wait()
	_, _ = a.Close(), b.Close()
}

// anybody is the check that refuses nobody.
func anybody(net.Conn) error { return nil }

// ownUser refuses a connection to a unix socket from another user than the one
// the socket is for, and root.
func ownUser(uid int) func(net.Conn) error {
	return func(conn net.Conn) error {
		user, _, err := peer(conn)
		if err != nil {
			return err
		}
		if user != uid && user != 0 && user != os.Geteuid() {
			return fmt.Errorf("a connection of user %d was refused", user)
		}
		return nil
	}
}

// peer returns whose process is at the other end, and which: unix(7), SO_PEERCRED.
func peer(conn net.Conn) (uid, pid int, err error) {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, 0, errors.New("not a unix socket")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return 0, 0, err
	}
	return int(cred.Uid), int(cred.Pid), nil
}
