package session

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// A command on a warm connection costs what sshd's new process and the user's shell
// cost, a tenth of a second and more in an emulated guest, whoever asks for it. So a
// master prepares for the next one. It opens a channel; and where nothing comes for a
// while it has the target start a process on it that waits for a command line on its
// input and then becomes what sshd would have started for it: the user's shell, fresh,
// called with that line. Commands that follow each other at once are not served so: the
// process costs the target more than it spares the command.

// waiter is what such a process is, before it becomes the user's shell; %[1]s is its
// mark. The shell is called by its name alone, as sshd calls it, if that is how it is
// found. read takes a byte at a time from a pipe, so that all that follows the line is
// left to the command (POSIX, read).
const waiter = `cd && unset PWD OLDPWD SHLVL && s=${SHELL##*/} && [ "$(command -v "$s")" -ef "$SHELL" ] &&
echo %[1]s && echo %[1]s >&2 && LC_ALL=C IFS= read -r l && exec "$s" -c "$l"`

// waiting is what the user's shell is called with to become a waiter, %s. It is for
// shells that read no file when they are called so, and for bash, which reads .bashrc
// under sshd: it goes on with the environment that sshd gave it, so that the second
// reading finds what the first one found. Any other shell ends without a mark.
const waiting = `w='%s'; case $SHELL in
*/bash) eval 'mapfile -d "" -t e </proc/$$/environ && exec env -i "${e[@]}" /bin/sh -c "$w"';;
*/sh | */dash | */ash) exec /bin/sh -c "$w";;
esac`

const (
	// maxAhead is up to how many bytes a command line is handed to a process that
	// waits: each is one read(2) in the guest.
	maxAhead = 4 << 10
	// aheadLimit is how long the process may take to start.
	aheadLimit = 30 * time.Second
	// dropLimit is how long the target may take to end one that is not wanted.
	dropLimit = 2 * time.Second
)

// ahead keeps one channel of the target ready, until something speaks against it:
// then every session is opened when it comes.
type ahead struct {
	open  func() (opened, error)
	pause time.Duration // in which nothing comes before a process is started

	bare  chan opened   // gives a channel on which nothing was asked for yet
	armed chan opened   // gives a channel to a process that waits for a command line
	drop  chan func()   // makes room: the keeper calls it when it has ended the channel
	again chan struct{} // begins the pause anew

	mu      sync.Mutex
	keeping bool // whether a goroutine keeps a channel
	off     bool

	waiting atomic.Bool // whether a process waits
}

func newAhead(pause time.Duration, open func() (opened, error)) *ahead {
	return &ahead{open: open, pause: pause, bare: make(chan opened), armed: make(chan opened), drop: make(chan func()), again: make(chan struct{}, 1)}
}

// prepare has a channel made ready, unless one is. It is called whenever a session
// begins or ends.
func (a *ahead) prepare() {
	select {
	case a.again <- struct{}{}:
	default:
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.off || a.keeping {
		return
	}
	a.keeping = true
	go func() {
		err := a.keep()
		a.mu.Lock()
		defer a.mu.Unlock()
		a.keeping, a.off = false, err != nil
	}()
}

var errNotAhead = errors.New("the target has nothing wait")

// keep opens a channel and gives it away. Any word of the target before that is taken
// for its end: a guest that speaks unasked could else block the connection.
func (a *ahead) keep() error {
	far, err := a.open()
	if err != nil {
		return nil // there is no room now
	}
	pause := time.NewTimer(a.pause)
	defer pause.Stop()
	given, err := a.give(far, a.bare, pause)
	if given || err != nil {
		return err
	}
	if err := arm(far); err != nil {
		return errors.Join(err, far.Close())
	}
	a.waiting.Store(true)
	defer a.waiting.Store(false)
	_, err = a.give(far, a.armed, nil)
	return err
}

// give offers a channel until somebody takes it, the pause is over, or there is an
// error, with which the channel is ended.
func (a *ahead) give(far opened, to chan<- opened, pause *time.Timer) (given bool, err error) {
	var over <-chan time.Time
	if pause != nil {
		over = pause.C
	}
	for {
		select {
		case to <- far:
			return true, nil
		case <-over:
			return false, nil
		case <-a.again:
			if pause != nil {
				pause.Reset(a.pause)
			}
		case dropped := <-a.drop:
			defer dropped()
			return false, end(far)
		case r, ok := <-far.requests:
			return false, spoiled(far, r, ok)
		}
	}
}

// arm starts a process on a channel, and returns once it waits.
func arm(far opened) error {
	defer time.AfterFunc(aheadLimit, func() { _ = far.Close() }).Stop()
	mark := rand.Text()
	line := fmt.Sprintf(waiting, fmt.Sprintf(waiter, mark))
	ok, err := far.SendRequest("exec", true, ssh.Marshal(struct{ Line string }{line}))
	if err != nil || !ok {
		return errors.Join(errNotAhead, err)
	}
	for _, stream := range []io.Reader{far, far.Stderr()} {
		said := make([]byte, len(mark)+1)
		if _, err := io.ReadFull(stream, said); err != nil || string(said) != mark+"\n" {
			return errors.Join(errNotAhead, err)
		}
	}
	return nil
}

// spoiled ends a channel on which the target sent a request, or that it closed.
func spoiled(far opened, r *ssh.Request, ok bool) error {
	if ok && r.WantReply {
		_ = r.Reply(false, nil)
	}
	_ = far.Close()
	go ssh.DiscardRequests(far.requests)
	return errNotAhead
}

// end ends a channel and waits until the target has: what waits reads the end of its
// input.
func end(far opened) error {
	_ = far.CloseWrite()
	select {
	case <-far.requests:
	case <-time.After(dropLimit):
	}
	_ = far.Close()
	go ssh.DiscardRequests(far.requests)
	return errNotAhead
}

// makeRoom ends the channel that is ready, for good, and reports whether there was one.
func (a *ahead) makeRoom() bool {
	done := make(chan struct{})
	select {
	case a.drop <- func() { close(done) }:
		<-done
		return true
	default:
		return false
	}
}

// aheadLine returns the command line of a request that a process that waits can
// take.
func aheadLine(r *ssh.Request) (line string, ok bool) {
	var command struct{ Line string }
	if r.Type != "exec" || ssh.Unmarshal(r.Payload, &command) != nil {
		return "", false
	}
	line = command.Line
	return line, line != "" && len(line) <= maxAhead && !strings.ContainsAny(line, "\n\x00")
}

// refuse ends a session with a no to what is asked for first. One that only breaks off
// would not tell whether it was done.
func refuse(near ssh.Channel, requests <-chan *ssh.Request, r *ssh.Request) {
	for !r.WantReply {
		next, ok := <-requests
		if !ok {
			break
		}
		r = next
	}
	_ = r.Reply(false, nil) // none, if none is wanted
	_ = near.Close()
}

// session serves a session by the process that waits, where it is for a command that
// this can take, else by a channel of its own.
func (m *master) session(n ssh.NewChannel) {
	near, requests, err := n.Accept()
	if err != nil {
		return
	}
	first, ok := <-requests
	if !ok {
		_ = near.Close()
		return
	}
	if line, ok := aheadLine(first); ok {
		select {
		case far := <-m.ahead.armed:
			m.ahead.prepare()
			_, err := io.WriteString(far, line+"\n")
			_ = first.Reply(err == nil, nil)
			joinChannels(near, requests, far)
			return
		default:
		}
	}
	far, err := m.open(n.ChannelType(), n.ExtraData())
	if err != nil {
		refuse(near, requests, first)
		return
	}
	passRequest(far, first)
	joinChannels(near, requests, far)
}
