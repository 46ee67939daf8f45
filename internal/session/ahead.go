package session

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// A command on a warm connection costs what sshd's new process and the user's shell
// cost, a twentieth of a second and more in an emulated guest, whoever asks for it. So
// when a session has ended, a master prepares for the next one. It opens a channel; and
// where nothing comes for a while it has the target start a process on it that waits for
// a command line on its input, and then does what the shell would have done that sshd
// starts with that line. What that shell read at its start it read after the last
// session's end, and not more than a minute ago. Commands that follow each other at once
// are not served so: the process costs the target more than it spares the command.

// reader says the mark, %[1]s, and waits for three lines: the name of the program that a
// plain command calls, what stands before the name, and the rest. Of any other command
// the last line has all. read takes a byte at a time from a pipe, so that all that
// follows is left to the command (POSIX, read).
const reader = `echo %[1]s && echo %[1]s >&2 && LC_ALL=C IFS= read -r meros_name && ` +
	`LC_ALL=C IFS= read -r meros_head && LC_ALL=C IFS= read -r meros_line && `

// inBash waits in the shell that sshd has started, which has read .bashrc by then. bash
// becomes the last program that it calls only where -c gives the command, so it is told
// to: if hash finds a program of that name, which it does for no function or builtin, and
// if there is no trap that would then be left out. $_ is where bash found a program.
const inBash = `[ -z "$(trap)" ] && meros_path= && ` + reader + `{ ` +
	`declare -F -- "$meros_name" >/dev/null || case $meros_name in ` +
	`*/*) [ -f "$meros_name" ] && [ -x "$meros_name" ] && meros_path=$meros_name;; ` +
	`?*) hash -- "$meros_name" 2>/dev/null && meros_path=${BASH_CMDS[$meros_name]};; esac; ` +
	`eval "unset meros_name meros_head meros_line meros_path; $meros_head${meros_path:+_=${meros_path@Q} exec -- }$meros_line"; }`

// inSh waits and then becomes the user's shell, which is called by its name alone, as
// sshd calls it, if that is how it is found.
const inSh = `cd && unset PWD OLDPWD SHLVL && s=${SHELL##*/} && [ "$(command -v "$s")" -ef "$SHELL" ] && ` +
	reader + `exec "$s" -c "$meros_head$meros_line"`

// waiting is what the user's shell is called with. It is for bash, and for shells that
// read no file when they are called so. Any other shell ends without a mark.
const waiting = `case $SHELL in */bash) eval '` + inBash + `';; ` +
	`*/sh | */dash | */ash) exec /bin/sh -c '` + inSh + `';; esac`

// plain is a line that calls a program by its name and gives it words as they stand, all
// of them quoted, with variables set for it or not.
var plain = regexp.MustCompile(`^((?:\w+=` + quoted + ` )*)('([\w./+-]+)'(?: ` + quoted + `)*)$`)

const quoted = `(?:'[^']*'|\\.)+`

// forReader returns the lines that a reader takes for a command line.
func forReader(line string) string {
	parts := plain.FindStringSubmatch(line)
	if parts == nil || strings.Contains(parts[1], "PATH=") { // the name is looked up there
		return "\n\n" + line + "\n"
	}
	return parts[3] + "\n" + parts[1] + "\n" + parts[2] + "\n"
}

const (
	// maxAhead is up to how many bytes a command line is handed to a process that
	// waits: each is one read(2) in the guest.
	maxAhead = 4 << 10
	// aheadLimit is how long the process may take to start.
	aheadLimit = 30 * time.Second
	// dropLimit is how long the target may take to end one that is not wanted.
	dropLimit = 2 * time.Second
)

// ahead keeps one channel of the target ready, until something speaks against it: then
// every session is opened when it comes.
type ahead struct {
	open  func() (opened, error)
	pause time.Duration // in which nothing comes before a process is started
	age   time.Duration // how long that waits

	bare  chan opened // gives a channel on which nothing was asked for yet
	armed chan opened // gives a channel to a process that waits for a command line

	mu   sync.Mutex
	kept *keeper // of the newest channel
	off  bool
}

// keeper is what keeps one channel.
type keeper struct {
	cancel  context.CancelFunc
	ended   chan struct{} // closed once the channel is given away, or gone
	waiting atomic.Bool   // whether a process waits
	opened  bool          // whether there was a channel; of the one who saw the end
}

func newAhead(wait MasterTimes, open func() (opened, error)) *ahead {
	return &ahead{open: open, pause: wait.Pause, age: wait.Ahead, bare: make(chan opened), armed: make(chan opened), kept: &keeper{}}
}

// renew has a channel made ready, in the place of the one that is. It is called whenever
// a session has ended.
func (a *ahead) renew() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.off {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	former, k := a.kept, &keeper{cancel: cancel, ended: make(chan struct{})}
	a.kept = k
	go func() {
		defer cancel()
		defer close(k.ended)
		former.end()
		if err := a.keep(ctx, k); err != nil {
			a.stop()
		}
	}()
}

func (k *keeper) end() {
	if k.cancel != nil {
		k.cancel()
		<-k.ended
	}
}

// stop has no more channels made ready, and returns what keeps the last one.
func (a *ahead) stop() *keeper {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.kept
	a.kept, a.off = &keeper{}, true
	return k
}

// makeRoom ends the channel that is ready, for good, and reports whether there was one.
func (a *ahead) makeRoom() bool {
	k := a.stop()
	k.end()
	return k.opened
}

// waits reports whether a process waits for a command line.
func (a *ahead) waits() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.kept.waiting.Load()
}

var errNotAhead = errors.New("the target has nothing wait")

// keep opens a channel and gives it away, unless ctx ends. After an error none is to be
// made ready any more.
func (a *ahead) keep(ctx context.Context, k *keeper) error {
	if ctx.Err() != nil {
		return nil
	}
	far, err := a.open()
	if err != nil { // sshd frees a session a moment after it told its end
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(a.pause):
		}
		if far, err = a.open(); err != nil {
			return nil // there is no room now
		}
	}
	k.opened = true
	if given, err := offer(ctx, far, a.bare, a.pause); given || err != nil || ctx.Err() != nil {
		if !given {
			_ = far.Close()
			end(far)
		}
		return err
	}
	given := false
	if err = arm(ctx, far); err == nil {
		k.waiting.Store(true)
		given, err = offer(ctx, far, a.armed, a.age)
		k.waiting.Store(false)
	}
	if !given {
		end(far)
	}
	if ctx.Err() != nil { // no word of the target's ended it
		return nil
	}
	return err
}

// offer offers a channel for so long. Any word of the target in that time is taken for its
// end: a guest that speaks unasked could else block the connection.
func offer(ctx context.Context, far opened, to chan<- opened, long time.Duration) (given bool, err error) {
	select {
	case to <- far:
		return true, nil
	case r, ok := <-far.requests:
		if ok && r.WantReply {
			_ = r.Reply(false, nil)
		}
		return false, errNotAhead
	case <-ctx.Done():
	case <-time.After(long):
	}
	return false, nil
}

// arm starts a process on a channel, and returns once it waits.
func arm(ctx context.Context, far opened) error {
	ctx, cancel := context.WithTimeout(ctx, aheadLimit)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = far.Close() })()
	mark := rand.Text()
	line := strings.ReplaceAll(waiting, "%[1]s", mark)
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

// end ends a channel and waits until the target has: what waits reads the end of its
// input.
func end(far opened) {
	_ = far.CloseWrite()
	over := time.After(dropLimit)
	for {
		select {
		case r, ok := <-far.requests:
			if !ok {
				return
			}
			if r.WantReply {
				_ = r.Reply(false, nil)
			}
		case <-over:
			_ = far.Close()
			go ssh.DiscardRequests(far.requests)
			return
		}
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
			_, err := io.WriteString(far, forReader(line))
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
