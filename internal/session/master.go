package session

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// A master is a process that holds one connection to a target open for others.
// They speak SSH with it through a socket of the host; it passes channels on, and
// knows nothing of what is in them. Who may use it is settled by the socket's
// folder, its mode and the user of the process at its other end, so this SSH has
// no keys worth the name.

// endRequest asks a master to end.
const endRequest = "end@meros"

// master passes channels on to a target.
type master struct {
	far   *Conn
	quiet *time.Timer // ends the master when it fires
	idle  time.Duration
	stop  context.CancelFunc

	mu    sync.Mutex
	users int

	spare chan opened // a session channel that was opened ahead
}

// opened is a channel at the target with its requests.
type opened struct {
	ssh.Channel
	requests <-chan *ssh.Request
}

// sessionChannel is the kind of channel that commands, shells and SFTP use: RFC
// 4254, 6.1.
const sessionChannel = "session"

// open opens a channel at the target. A session channel is taken from what was
// opened ahead, which spares the command that needs it a round trip.
func (m *master) open(n ssh.NewChannel) (opened, error) {
	if n.ChannelType() == sessionChannel {
		defer func() { go m.openAhead() }()
		select {
		case o := <-m.spare:
			if o.lives() {
				return o, nil
			}
		default:
		}
	}
	far, requests, err := m.far.client.OpenChannel(n.ChannelType(), n.ExtraData())
	return opened{far, requests}, err
}

// lives reports whether the target has not closed the channel meanwhile.
func (o opened) lives() bool {
	select {
	case _, open := <-o.requests:
		return open
	default:
		return true
	}
}

func (m *master) openAhead() {
	far, requests, err := m.far.client.OpenChannel(sessionChannel, nil)
	if err != nil {
		return
	}
	select {
	case m.spare <- opened{far, requests}:
	default:
		_ = far.Close()
	}
}

// serveMaster serves a connection on l until nobody has used it for so long, the
// connection ends, one asks it to end, or ctx ends.
func serveMaster(ctx context.Context, far *Conn, l net.Listener, idle time.Duration, check func(net.Conn) error) error {
	config, err := masterConfig()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	m := &master{far: far, idle: idle, stop: stop, quiet: time.AfterFunc(idle, stop), spare: make(chan opened, 1)}
	go m.openAhead()
	go func() { _ = far.client.Wait(); stop() }()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return nil
		}
		if check(conn) != nil {
			_ = conn.Close()
			continue
		}
		m.enter(1)
		serving.Go(func() {
			defer m.enter(-1)
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			m.serve(conn, config)
		})
	}
}

func masterConfig() (*ssh.ServerConfig, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, err
	}
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(signer)
	return config, nil
}

// enter counts those who use the master. The clock runs while nobody does.
func (m *master) enter(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.users += n
	if m.users > 0 {
		m.quiet.Stop()
		return
	}
	m.quiet.Reset(m.idle)
}

func (m *master) serve(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	near, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go func() {
		for r := range requests {
			if r.Type == endRequest {
				m.stop()
			}
			if r.WantReply { // a keepalive too: whether the target lives, the master watches
				_ = r.Reply(false, nil)
			}
		}
	}()
	for n := range channels {
		go m.channel(n)
	}
	_ = near.Wait()
}

// channel opens the same channel at the target and joins the two.
func (m *master) channel(n ssh.NewChannel) {
	far, err := m.open(n)
	if err != nil {
		reason, words := ssh.ConnectionFailed, "the connection to the target ended"
		if refused, ok := errors.AsType[*ssh.OpenChannelError](err); ok {
			reason, words = refused.Reason, refused.Message
		}
		_ = n.Reject(reason, words)
		return
	}
	near, nearRequests, err := n.Accept()
	if err != nil {
		_ = far.Close()
		return
	}
	go func() { // the user's requests, until the user closes
		passRequests(far, nearRequests)
		_ = far.Close()
	}()
	go func() {
		if _, err := io.Copy(far, near); err == nil {
			_ = far.CloseWrite()
		}
	}()
	var output sync.WaitGroup
	output.Go(func() { _, _ = io.Copy(near, far) })
	output.Go(func() { _, _ = io.Copy(near.Stderr(), far.Stderr()) })
	go func() { output.Wait(); _ = near.CloseWrite() }()
	passRequests(near, far.requests) // the target's, such as a status, until it closes
	output.Wait()
	_ = near.Close()
}

func passRequests(to ssh.Channel, requests <-chan *ssh.Request) {
	for r := range requests {
		ok, err := to.SendRequest(r.Type, r.WantReply, r.Payload)
		if r.WantReply {
			_ = r.Reply(ok && err == nil, nil)
		}
	}
}
