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

	ahead *ahead
}

// opened is a channel at the target with its requests.
type opened struct {
	ssh.Channel
	requests <-chan *ssh.Request
}

// sessionChannel is the kind of channel that commands, shells and SFTP use: RFC
// 4254, 6.1.
const sessionChannel = "session"

// open opens a channel at the target, or takes the one that is ready. Where the target
// has no room for one more, sshd_config(5), MaxSessions, what is ready makes some.
func (m *master) open(kind string, extra []byte) (opened, error) {
	if kind != sessionChannel {
		return m.openFar(kind, extra)
	}
	select {
	case far := <-m.ahead.bare:
		return far, nil
	default:
	}
	far, err := m.openFar(kind, extra)
	if _, refused := errors.AsType[*ssh.OpenChannelError](err); refused && m.ahead.makeRoom() {
		return m.openFar(kind, extra)
	}
	return far, err
}

func (m *master) openFar(kind string, extra []byte) (opened, error) {
	far, requests, err := m.far.client.OpenChannel(kind, extra)
	return opened{far, requests}, err
}

// serveMaster serves a connection on l until nobody has used it for so long, the
// connection ends, one asks it to end, or ctx ends.
func serveMaster(ctx context.Context, far *Conn, l net.Listener, wait MasterTimes, check func(net.Conn) error) error {
	config, err := masterConfig()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	m := &master{far: far, idle: wait.Idle, stop: stop, quiet: time.AfterFunc(wait.Idle, stop)}
	m.ahead = newAhead(wait, func() (opened, error) { return m.openFar(sessionChannel, nil) })
	m.ahead.renew()
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
	if n.ChannelType() == sessionChannel {
		defer m.ahead.renew()
		if m.ahead.waits() {
			m.session(n)
			return
		}
	}
	far, err := m.open(n.ChannelType(), n.ExtraData())
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
	joinChannels(near, nearRequests, far)
}

// joinChannels passes on all that comes on either channel, until the target's is closed.
func joinChannels(near ssh.Channel, nearRequests <-chan *ssh.Request, far opened) {
	var asking sync.Mutex // held while the target is asked: its end does not overtake its answer
	go func() {           // the user's requests, until the user closes
		for r := range nearRequests {
			asking.Lock()
			passRequest(far, r)
			asking.Unlock()
		}
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
	for r := range far.requests { // the target's, such as a status, until it closes
		passRequest(near, r)
	}
	output.Wait()
	asking.Lock()
	defer asking.Unlock()
	_ = near.Close()
}

func passRequest(to ssh.Channel, r *ssh.Request) {
	ok, err := to.SendRequest(r.Type, r.WantReply, r.Payload)
	if r.WantReply {
		_ = r.Reply(ok && err == nil, nil)
	}
}
