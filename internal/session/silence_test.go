package session

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// A guest's file that is a pipe by the time it is opened is opened for ever.
func TestPullFromASilentServer(t *testing.T) {
	never := make(chan struct{})
	defer close(never)
	g := lying(t, &liar{
		list: only(lie{"there", 0o644, 7}, lie{"pipe", 0o644, 7}),
		content: func(file string) (io.ReaderAt, error) {
			if strings.HasSuffix(file, "pipe") {
				<-never
			}
			return strings.NewReader("content"), nil
		},
	})
	c := g.dialTicking(20 * time.Millisecond)
	within(t, 10*time.Second, "noticing", func() {
		_, err := Pull(t.Context(), c, g.paths, quiet(), PullOptions{})
		if !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "has not answered for 480ms") {
			t.Errorf("error %v, want a lost connection", err)
		}
	})
	if _, err := os.Stat(g.paths.Shared(c.fullID)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was put in place: %v", err)
	}
}

// A server that owes nothing may be silent for as long as it likes.
func TestIdleSFTPIsNotGivenUp(t *testing.T) {
	g := newGuest(t, func(g *guest) {
		g.sftp = func(ch ssh.Channel) { _ = sftp.NewRequestServer(ch, sftp.InMemHandler()).Serve() }
	})
	const every = 5 * time.Millisecond
	c := g.dialTicking(every)
	client, stop, err := c.files(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	time.Sleep(4 * silentTicks * every)
	if _, err := client.ReadDir("/"); err != nil {
		t.Errorf("after a pause: %v", c.fault(err))
	}
}

func TestPacketsAreCountedHoweverTheyAreCut(t *testing.T) {
	var all []byte
	for _, size := range []uint32{1, 0, 300, 5} {
		all = append(binary.BigEndian.AppendUint32(all, size), bytes.Repeat([]byte{0xff}, int(size))...)
	}
	for _, step := range []int{1, 3, 4, 7, len(all)} {
		var p packets
		for at := 0; at < len(all); at += step {
			p.pass(all[at:min(at+step, len(all))])
		}
		if p.begun.Load() != 4 || p.ended.Load() != 4 {
			t.Errorf("by %d bytes: %d packets begun, %d ended, want 4", step, p.begun.Load(), p.ended.Load())
		}
	}
	var half packets
	half.pass([]byte{0xff, 0xff, 0xff, 0xff, 1, 2})
	if half.begun.Load() != 1 || half.ended.Load() != 0 {
		t.Errorf("a packet that goes on: %d begun, %d ended", half.begun.Load(), half.ended.Load())
	}
}

// What a server hands out of a file is a byte at least, or that there is none.
func TestPullOfNothingForEver(t *testing.T) {
	for _, claimed := range []int64{7, 1 << 20} { // those are read in different ways
		g := lying(t, &liar{
			list:    only(lie{"f", 0o644, claimed}),
			content: func(string) (io.ReaderAt, error) { return nothing{}, nil },
		})
		within(t, 10*time.Second, "noticing", func() {
			_, err := Pull(t.Context(), g.dial(), g.paths, quiet(), PullOptions{})
			if !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "hands out nothing of a file") {
				t.Errorf("pull: error %v, want a lost connection", err)
			}
			err = PullStream(t.Context(), g.dial(), quiet(), PullOptions{From: "/mos-shared/f"})
			if !errors.Is(err, ErrLost) {
				t.Errorf("pull to a stream: error %v, want a lost connection", err)
			}
		})
	}
}

// nothing is a file that neither has bytes nor ends.
type nothing struct{}

func (nothing) ReadAt([]byte, int64) (int, error) { return 0, nil }

func TestAnswersToReads(t *testing.T) {
	sent := func(kind byte, id, word uint32) []byte {
		b := binary.BigEndian.AppendUint32([]byte{0, 0, 0, 13, kind}, id)
		return append(binary.BigEndian.AppendUint32(b, word), 0, 0, 0, 0)
	}
	for name, c := range map[string]struct {
		asked, kind byte
		id, word    uint32
		dead        bool
	}{
		"bytes":                 {fxpRead, fxpData, 1, 4, false},
		"no bytes":              {fxpRead, fxpData, 1, 0, true},
		"an end":                {fxpRead, fxpStatus, 1, 1, false},
		"well done":             {fxpRead, fxpStatus, 1, 0, true},
		"well done, of another": {fxpRead, fxpStatus, 2, 0, false},
		"well done, of a close": {fxpClose, fxpStatus, 1, 0, false},
	} {
		near, far := net.Pipe()
		e := newExchange(&pulse{Conn: near})
		_ = far.Close()
		e.asked.pass(sent(c.asked, 1, 0))
		e.answered.pass(sent(c.kind, c.id, c.word))
		if dead := e.link.dead.Load() != nil; dead != c.dead {
			t.Errorf("%s: given up %t, want %t", name, dead, c.dead)
		}
	}
}
