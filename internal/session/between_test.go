package session

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"meros/internal/ui"
	"meros/internal/ui/uitest"
)

// unchanged is the mode of an entry as it is.
func unchanged(info fs.FileInfo) fs.FileMode { return info.Mode() }

func TestPushBetween(t *testing.T) {
	from, to := startSSHD(t, "/bin/bash"), startSSHD(t, "/bin/sh")
	one, two := from.dial(t), to.dial(t)
	tree := filepath.Join(t.TempDir(), "tree")
	makeTree(t, tree)
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, largeContent(12), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Push(t.Context(), one, quiet(), []string{tree, large}, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, checksum := range []bool{false, true} {
		done, where, err := PushBetween(t.Context(), one, two, quiet(), []string{"mos-shared/tree", "mos-shared/large"}, PullOptions{}, PushOptions{To: "in/there", Checksum: checksum})
		if err != nil {
			t.Fatal(err)
		}
		if checksum && done.Files != 0 {
			t.Errorf("%d files were sent twice", done.Files)
		}
		want(t, "where", where, "mos_demo-box:~/in/there/")
	}
	got := filepath.Join(to.home, "in/there")
	if d := cmp.Diff(describe(t, tree, unchanged), describe(t, filepath.Join(got, "tree"), unchanged)); d != "" {
		t.Errorf("there (-want +got):\n%s", d)
	}
	sameContent(t, large, filepath.Join(got, "large"))
	noPartials(t, got)
	for _, named := range [][]string{{"nonesuch"}, {"mos-shared/tree", "tree"}} {
		if _, _, err := PushBetween(t.Context(), one, two, quiet(), named, PullOptions{}, PushOptions{}); err == nil {
			t.Errorf("%q was pushed", named)
		}
	}
}

// What a hostile guest shows is no more than what it is allowed to send.
func TestPushBetweenFromLiar(t *testing.T) {
	to := startSSHD(t, "/bin/sh")
	two := to.dial(t)
	list := []fs.FileInfo{
		lie{"..", fs.ModeDir | 0o755, 0},
		lie{"a/b", 0o644, 7},
		lie{"new\nline", 0o644, 7},
		lie{"fifo", fs.ModeNamedPipe | 0o644, 0},
		lie{"out", fs.ModeSymlink | 0o777, 0},
		lie{"endless", 0o644, 7},
		lie{"good", 0o644, 7},
	}
	g := lying(t, &liar{
		list: func(dir string) []fs.FileInfo {
			if dir == "/" {
				return []fs.FileInfo{lie{"tree", fs.ModeDir | 0o755, 0}}
			}
			return list
		},
		content: func(file string) (io.ReaderAt, error) {
			if strings.HasSuffix(file, "endless") {
				return zeros{}, nil
			}
			return strings.NewReader("content"), nil
		},
		links: map[string]string{"out": "../../etc/passwd"},
	})
	within(t, 60*time.Second, "push", func() {
		_, _, err := PushBetween(t.Context(), g.dial(), two, quiet(), []string{"/tree"}, PullOptions{}, PushOptions{To: "in"})
		if r, ok := errors.AsType[*RefusedError](err); !ok || r.Total < 4 || strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("error %v", err)
		}
	})
	tree := filepath.Join(to.home, "in/tree")
	var got []string
	for _, file := range names(t, tree) {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		got = append(got, filepath.Base(file)+" "+string(content))
	}
	want(t, "there", got, []string{"endless " + strings.Repeat("\x00", 7), "good content"})
	within(t, 60*time.Second, "push by hash", func() {
		_, _, err := PushBetween(t.Context(), g.dial(), two, quiet(), []string{"/tree"}, PullOptions{}, PushOptions{To: "in", Checksum: true})
		if err == nil || !strings.Contains(err.Error(), "longer than its 7 bytes") {
			t.Errorf("error %v, want that of a file without end", err)
		}
	})
	_, _, err := PushBetween(t.Context(), g.dial(), two, quiet(), []string{"/tree"}, PullOptions{MaxSize: 10}, PushOptions{To: "more"})
	if err == nil || !strings.Contains(err.Error(), "more than 10 B") {
		t.Errorf("error %v, want the limit", err)
	}
	if _, err := os.Stat(filepath.Join(to.home, "more")); err == nil {
		t.Error("something was sent beyond the limit")
	}
}

func TestStreams(t *testing.T) {
	s := startSSHD(t, "/bin/sh")
	c := s.dial(t)
	content := largeContent(3)
	_, where, err := PushStream(t.Context(), c, &ui.Streams{In: bytes.NewReader(content), Out: io.Discard, Err: io.Discard}, "new/one two")
	if err != nil {
		t.Fatal(err)
	}
	want(t, "where", where, "mos_demo-box:~/new/one two")
	var out bytes.Buffer
	streams := &ui.Streams{Out: &out, Err: io.Discard}
	if err := PullStream(t.Context(), c, streams, PullOptions{From: "new/one two"}); err != nil || !bytes.Equal(out.Bytes(), content) {
		t.Errorf("%d bytes came back of %d, %v", out.Len(), len(content), err)
	}
	for from, words := range map[string]string{"new/none": "no file", "new": "no file", "new/one two": "1.0 MiB"} {
		err := PullStream(t.Context(), c, streams, PullOptions{From: from, MaxSize: 1 << 20})
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("pull of %q: %v, want %q", from, err, words)
		}
	}
	for _, to := range []string{"", "new/", ".."} {
		if _, _, err := PushStream(t.Context(), c, quiet(), to); err == nil {
			t.Errorf("the input was pushed to %q", to)
		}
	}
}

// A file that is shorter than the guest says is not taken for whole.
func TestPullStreamOfALiar(t *testing.T) {
	g := lying(t, &liar{list: only(lie{"file", 0o644, 8})})
	var out bytes.Buffer
	err := PullStream(t.Context(), g.dial(), &ui.Streams{Out: &out, Err: io.Discard}, PullOptions{From: "/mos-shared/file"})
	if err == nil || !strings.Contains(err.Error(), "ended after 7 of 8 bytes") {
		t.Errorf("%q, %v, want an error", out.String(), err)
	}
}

// An input that breaks off leaves nothing, and what was there.
func TestPushStreamBreaksOff(t *testing.T) {
	s := startSSHD(t, "/bin/sh")
	c := s.dial(t)
	file := filepath.Join(s.home, "file")
	push := func(ctx context.Context, in io.Reader) error {
		_, _, err := PushStream(ctx, c, &ui.Streams{In: in, Out: io.Discard, Err: io.Discard}, "file")
		return err
	}
	if err := push(t.Context(), strings.NewReader("old")); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the disk is on fire")
	if err := push(t.Context(), io.MultiReader(bytes.NewReader(largeContent(1)), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	stopped := errors.New("stopped")
	for name, read := range map[string]func(b []byte) (int, error){
		"endless":                  func(b []byte) (int, error) { return len(b), nil },
		"ended by the same Ctrl-C": func([]byte) (int, error) { return 0, io.EOF },
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		err := push(ctx, readFunc(func(b []byte) (int, error) { cancel(stopped); return read(b) }))
		if !errors.Is(err, stopped) {
			t.Errorf("an input that is %s: error %v", name, err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "old" {
		t.Errorf("there is %q, %v", got, err)
	}
	noPartials(t, s.home)
}

// An input that is idle keeps neither Ctrl-C nor the death of the guest from ending a push.
func TestPushStreamOfAnIdleInput(t *testing.T) {
	stopped := errors.New("stopped")
	for want, end := range map[error]func(g *guest, cancel context.CancelCauseFunc){
		stopped: func(_ *guest, cancel context.CancelCauseFunc) { cancel(stopped) },
		ErrLost: func(g *guest, _ context.CancelCauseFunc) {
			g.mu.Lock()
			defer g.mu.Unlock()
			_ = g.conns[0].Close()
		},
	} {
		g := newGuest(t, nil)
		c := g.dial()
		idle, w := io.Pipe()
		t.Cleanup(func() { _ = w.Close() })
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			_, _ = io.WriteString(w, "some")
			end(g, cancel)
		}()
		within(t, 20*time.Second, want.Error(), func() {
			_, _, err := PushStream(ctx, c, &ui.Streams{In: idle, Out: io.Discard, Err: io.Discard}, "file")
			if !errors.Is(err, want) {
				t.Errorf("error %v, want %v", err, want)
			}
		})
		if _, err := os.Stat(filepath.Join(g.home, "file")); err == nil {
			t.Error("a part of the input is in place")
		}
		if want == stopped {
			noPartials(t, g.home)
		}
	}
}

// A stream shows how much of it has passed; not where the output is a pipe, whose reader
// may write on the same terminal.
func TestStreamsShowProgress(t *testing.T) {
	more := make(chan struct{})
	g := newGuest(t, nil)
	slow := lying(t, &liar{
		list:    only(lie{"file", 0o644, 3 << 20}),
		content: func(string) (io.ReaderAt, error) { return waitsFor(more), nil },
	})
	idle, w := io.Pipe()
	go func() { _, _ = w.Write(largeContent(3)) }()
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	pipe, pipeEnd, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _, _, _ = w.Close(), file.Close(), pipe.Close(), pipeEnd.Close() })
	pull := func(ctx context.Context, s *ui.Streams) error {
		return PullStream(ctx, slow.dial(), s, PullOptions{From: "/mos-shared/file"})
	}
	for _, c := range []struct {
		what    string
		do      func(ctx context.Context, s *ui.Streams) error
		out     io.Writer
		in      io.Reader
		says    string
		amounts string
	}{
		{"push", func(ctx context.Context, s *ui.Streams) error {
			_, _, err := PushStream(ctx, g.dial(), s, "file")
			return err
		}, io.Discard, idle, "pushing to mos_demo-box", " MiB "},
		{"pull to a file", pull, file, nil, "pulling from mos_demo-box", "/ 3.0 MiB"},
		{"pull to a pipe", pull, pipeEnd, nil, "", ""},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		master, tty := uitest.OpenPTY(t, 100, 30)
		screen, ended := seen(master), make(chan error, 1)
		go func() { ended <- c.do(ctx, &ui.Streams{In: c.in, Out: c.out, Err: tty}) }()
		if c.says != "" {
			eventually(t, c.what, func() bool { return strings.Contains(screen(), c.says) && strings.Contains(screen(), c.amounts) })
		} else {
			time.Sleep(500 * time.Millisecond)
			want(t, c.what, screen(), "")
		}
		cancel()
		<-ended
	}
	close(more)
}

// waitsFor is a file that hands out nothing before that is closed.
type waitsFor chan struct{}

func (w waitsFor) ReadAt([]byte, int64) (int, error) { <-w; return 0, io.EOF }

type readFunc func([]byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) { return f(b) }

type writeFunc func([]byte) (int, error)

func (f writeFunc) Write(b []byte) (int, error) { return f(b) }
