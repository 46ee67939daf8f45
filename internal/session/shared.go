package session

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"meros/internal/family"
	"meros/internal/layout"
)

// MasterIdle is how long a master stays that nobody uses.
const MasterIdle = 5 * time.Minute

// MasterTimes are how long a master waits. Zero is the default of each.
type MasterTimes struct {
	Idle  time.Duration // it stays that nobody uses: MasterIdle
	Pause time.Duration // no session begins or ends before a process is started ahead: a second
	Ahead time.Duration // such a process waits for a command: a minute
}

const (
	masterPause = time.Second // longer than a short command takes
	masterAhead = time.Minute
)

func (t *MasterTimes) fill() {
	if t.Idle == 0 {
		t.Idle = MasterIdle
	}
	if t.Pause == 0 {
		t.Pause = masterPause
	}
	if t.Ahead == 0 {
		t.Ahead = masterAhead
	}
}

const (
	// masterLimit bounds how long a master that runs may take to answer.
	masterLimit = 10 * time.Second
	masterPoll  = 20 * time.Millisecond
)

// masterReady is what a new master reports once it can be used.
const masterReady = "ready"

// Spawn starts a process that calls Master for that target with the network
// connection given, and returns what it reported.
type Spawn func(t *family.Target, tcp *os.File) (said string, err error)

// DialShared is Dial by way of a master, which is started if there is none. Where
// none can be, it is Dial.
func DialShared(ctx context.Context, paths layout.Paths, t *family.Target, getenv func(string) string, spawn Spawn) (*Conn, error) {
	d, err := newDialer(paths, t)
	if err != nil {
		return nil, err
	}
	dir, err := openRunDir(paths, t.FullID(), getenv)
	if err != nil {
		return d.dial(ctx)
	}
	if c, err := d.viaMaster(ctx, dir); err == nil || ctx.Err() != nil {
		return c, causeOr(ctx, err)
	}
	defer dir.tidy() // where none came to be, the folder is empty
	tcp, err := (&net.Dialer{Timeout: d.connect}).DialContext(ctx, "tcp", d.addr)
	if err != nil {
		return nil, d.portError(ctx, err)
	}
	c := d.newMaster(ctx, dir, tcp, spawn)
	_ = tcp.Close()
	if c != nil {
		return c, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return d.dial(ctx)
}

// newMaster starts a master on a network connection and connects to it. It
// returns nil where that fails.
func (d *dialer) newMaster(ctx context.Context, dir *runDir, tcp net.Conn, spawn Spawn) *Conn {
	file, err := tcp.(*net.TCPConn).File()
	if err != nil {
		return nil
	}
	defer file.Close()
	said := make(chan string, 1)
	go func() {
		words, _ := spawn(d.target, file)
		said <- strings.TrimSpace(words)
	}()
	select {
	case <-ctx.Done():
		return nil
	case words := <-said:
		if words == "" {
			return nil
		}
	}
	// It may be another that was started at the same time, and is not ready yet.
	for end := time.Now().Add(d.handshake); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(masterPoll) {
		if c, err := d.viaMaster(ctx, dir); err == nil {
			return c
		}
		if free, err := dir.tryLock(d.lockKind(), unix.LOCK_EX); free != nil || err != nil {
			if free != nil {
				free.release()
			}
			return nil
		}
	}
	return nil
}

// socketKind names a master's socket.
func (d *dialer) socketKind() string { return "m" + d.loginHash() }

func (d *dialer) lockKind() string { return "l" + d.loginHash() }

// loginHash is made of all that a login rests on, so that a recipe or key that
// changed is never served by an older login.
func (d *dialer) loginHash() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{
		d.addr, d.target.User, string(d.pinned.Marshal()), string(d.client.PublicKey().Marshal()),
	}, "\x00")))
	return fmt.Sprintf("%x", sum[:4])
}

// viaMaster connects to the master that runs.
func (d *dialer) viaMaster(ctx context.Context, dir *runDir) (*Conn, error) {
	conn, err := (&net.Dialer{Timeout: masterLimit}).DialContext(ctx, "unix", dir.file(d.socketKind()))
	if err != nil {
		return nil, err
	}
	link := &pulse{Conn: conn, every: d.every}
	client, err := masterClient(ctx, link, dir.user())
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	c := &Conn{fullID: d.target.FullID(), shared: d.target.SharedDir, client: client, pulse: link, alone: d.dial}
	go link.watch(c.client)
	return c, nil
}

// masterClient opens SSH on a connection to a master of one's own.
func masterClient(ctx context.Context, link *pulse, uid int) (*ssh.Client, error) {
	if err := ownUser(uid)(link.Conn); err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = link.Conn.Close() })()
	if err := link.SetDeadline(time.Now().Add(masterLimit)); err != nil {
		return nil, err
	}
	conn, channels, requests, err := ssh.NewClientConn(link, "", &ssh.ClientConfig{
		Config:          ssh.Config{Ciphers: []string{ssh.CipherAES128GCM}}, // this host has AES instructions, or time
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),                        // who it is, the socket's peer says
	})
	if err != nil {
		return nil, err
	}
	return ssh.NewClient(conn, channels, requests), link.SetDeadline(time.Time{})
}

// Master logs in over a network connection to a target and lets others use the
// login until it has been idle for long, it ends, or ctx does. It calls
// ready once it can be used, or when another master has the target already.
func Master(ctx context.Context, paths layout.Paths, t *family.Target, getenv func(string) string, tcp net.Conn, wait MasterTimes, ready func(string)) error {
	wait.fill()
	d, err := newDialer(paths, t)
	if err != nil {
		return err
	}
	dir, err := openRunDir(paths, t.FullID(), getenv)
	if err != nil {
		return err
	}
	lock, err := dir.tryLock(d.lockKind(), unix.LOCK_EX)
	if err != nil {
		return err
	}
	if lock == nil {
		ready("busy")
		return nil
	}
	defer lock.release()
	defer dir.tidy(d.lockKind(), d.socketKind())
	far, err := d.login(ctx, tcp)
	if err != nil {
		return err
	}
	defer far.Close()
	l, err := dir.listen(d.socketKind())
	if err != nil {
		return err
	}
	ready(masterReady)
	return serveMaster(ctx, far, l, wait, ownUser(dir.user()))
}

// EndMasters ends the masters of the targets that which picks, and waits until
// they have.
func EndMasters(ctx context.Context, paths layout.Paths, getenv func(string) string, which func(fullID string) bool) error {
	dir, err := openRunDir(paths, "", getenv)
	if err != nil {
		return err
	}
	defer dir.tidy()
	var faults []error
	for _, kind := range []string{"m", "l"} { // a lock alone is of one that was killed before it listened
		files, err := filepath.Glob(filepath.Join(globQuote(dir.dir), "*."+kind+"????????"))
		if err != nil {
			return err
		}
		for _, file := range files {
			fullID, hash, _ := strings.Cut(filepath.Base(file), "."+kind)
			if which(fullID) {
				faults = append(faults, endMaster(ctx, &runDir{paths, dir.dir, fullID}, filepath.Join(dir.dir, fullID+".m"+hash)))
			}
		}
	}
	return errors.Join(faults...)
}

func endMaster(ctx context.Context, dir *runDir, socket string) error {
	conn, err := (&net.Dialer{Timeout: masterLimit}).DialContext(ctx, "unix", socket)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
		hash := strings.TrimPrefix(filepath.Ext(socket), ".m") // of one that was killed
		lock, err := dir.tryLock("l"+hash, unix.LOCK_EX)
		if lock == nil {
			return err // nil: another begins
		}
		defer lock.release()
		dir.tidy("l"+hash, "m"+hash)
		return nil
	}
	if err != nil {
		return err
	}
	client, err := masterClient(ctx, &pulse{Conn: conn}, dir.user())
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	defer client.Close()
	_, pid, err := peer(conn)
	if err != nil {
		return err
	}
	gone, err := watchProcess(pid)
	if err != nil {
		return err
	}
	defer gone.Close()
	_, _, _ = client.SendRequest(endRequest, true, nil)
	if !gone.wait(masterLimit) {
		return fmt.Errorf("the master of %s, process %d, does not end", dir.fullID, pid)
	}
	return nil
}

// watched is a process that is waited for: pidfd_open(2).
type watched struct{ *os.File }

func watchProcess(pid int) (watched, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	return watched{os.NewFile(uintptr(fd), "pidfd")}, err
}

// wait reports whether the process ended within limit.
func (w watched) wait(limit time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(w.Fd()), Events: unix.POLLIN}}
	for end := time.Now().Add(limit); time.Now().Before(end); {
		n, err := unix.Poll(fds, int(time.Until(end).Milliseconds())+1)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
	return false
}
