package session

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"meros/internal/layout"
)

// liar is a guest's file system that shows whatever it is told to show.
type liar struct {
	list    func(dir string) []fs.FileInfo // entries of a folder, dir as /mos-shared/…
	content func(file string) (io.ReaderAt, error)
	links   map[string]string // by base name
	link    func() string     // what a link says each time it is asked; nil: links
	cmd     func(method string) error
}

// shown entries.
type lie struct {
	name string
	mode fs.FileMode
	size int64
}

func (l lie) Name() string       { return l.name }
func (l lie) Size() int64        { return l.size }
func (l lie) Mode() fs.FileMode  { return l.mode }
func (l lie) ModTime() time.Time { return time.Unix(1e9, 0) }
func (l lie) IsDir() bool        { return l.mode.IsDir() }
func (l lie) Sys() any           { return nil }

type entries []fs.FileInfo

func (e entries) ListAt(to []fs.FileInfo, at int64) (int, error) {
	if at >= int64(len(e)) {
		return 0, io.EOF
	}
	n := copy(to, e[at:])
	return n, nil
}

// Filelist implements sftp.FileLister.
func (l *liar) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	if r.Method == "List" {
		return entries(l.list(r.Filepath)), nil
	}
	for _, e := range l.list(path.Dir(r.Filepath)) {
		if e.Name() == path.Base(r.Filepath) {
			return entries{e}, nil
		}
	}
	return nil, os.ErrNotExist
}

// Readlink implements sftp.ReadlinkFileLister.
func (l *liar) Readlink(file string) (string, error) {
	if l.link != nil {
		return l.link(), nil
	}
	return l.links[path.Base(file)], nil
}

// Filecmd implements sftp.FileCmder.
func (l *liar) Filecmd(r *sftp.Request) error {
	if l.cmd == nil {
		return os.ErrPermission
	}
	return l.cmd(r.Method)
}

// Filewrite implements sftp.FileWriter.
func (l *liar) Filewrite(*sftp.Request) (io.WriterAt, error) {
	if l.cmd == nil {
		return nil, os.ErrPermission
	}
	return forgetful{}, l.cmd("Write")
}

// forgetful takes all and keeps nothing.
type forgetful struct{}

func (forgetful) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// Fileread implements sftp.FileReader.
func (l *liar) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	if l.content == nil {
		return strings.NewReader("content"), nil
	}
	return l.content(r.Filepath)
}

// zeros is a file without end.
type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

// lying starts a guest with that file system.
func lying(t *testing.T, l *liar) *guest {
	return newGuest(t, func(g *guest) {
		g.sftp = func(ch ssh.Channel) {
			s := sftp.NewRequestServer(ch, sftp.Handlers{FileGet: l, FileList: l, FilePut: l, FileCmd: l})
			_ = s.Serve()
		}
	})
}

func only(e ...fs.FileInfo) func(string) []fs.FileInfo {
	return func(dir string) []fs.FileInfo {
		if dir != "/mos-shared" {
			return nil
		}
		return e
	}
}

func TestPullFromLiar(t *testing.T) {
	var list []fs.FileInfo
	for _, name := range evilNames {
		if name != "." && name != ".." { // every folder has them
			list = append(list, lie{name, 0o644, 7}, lie{name, fs.ModeDir | 0o755, 0})
		}
	}
	refused := len(list)
	list = append(list,
		lie{"fifo", fs.ModeNamedPipe | 0o644, 0}, lie{"socket", fs.ModeSocket | 0o644, 0},
		lie{"block", fs.ModeDevice | 0o644, 0}, lie{"char", fs.ModeDevice | fs.ModeCharDevice | 0o644, 0},
		lie{"twice", 0o644, 7}, lie{"twice", fs.ModeSymlink, 0},
		lie{"abs", fs.ModeSymlink, 0}, lie{"up", fs.ModeSymlink, 0}, lie{"esc", fs.ModeSymlink, 0},
		lie{"short", 0o644, 8}, lie{"shortbig", 0o644, 1 << 20},
	)
	refused += 4 + 1 + 3 + 2
	for _, name := range goodNames {
		list = append(list, lie{name, 0o666 | fs.ModeSetuid | fs.ModeSticky, 7})
	}
	list = append(list, lie{"longer", 0o644, 3}, lie{"ok", fs.ModeSymlink, 0}, lie{"dir", fs.ModeDir | fs.ModeSetgid | 0o222, 0})
	g := lying(t, &liar{list: only(list...), links: map[string]string{
		"abs": "/etc/passwd", "up": "../x", "esc": "\x1b[2J", "ok": "dir/x", "twice": "/",
	}})
	c := g.dial()
	_, err := Pull(t.Context(), c, g.paths, quiet(), PullOptions{})
	r, ok := errors.AsType[*RefusedError](err)
	if !ok {
		t.Fatalf("error %v, want a RefusedError", err)
	}
	want(t, "refused", r.Total, refused)
	for _, e := range r.Entries {
		if strings.ContainsAny(e.String(), "\x00\x1b\n\r") || !utf8.ValidString(e.String()) || len(e.String()) > 2000 {
			t.Errorf("shown as %.60q", e)
		}
	}
	dest := g.paths.Shared("mos_demo-box")
	for _, name := range append(goodNames, "longer", "twice") {
		content, err := os.ReadFile(filepath.Join(dest, name))
		info, statErr := os.Lstat(filepath.Join(dest, name))
		if err != nil || statErr != nil || string(content) != "content" || info.Mode()&^0o666 != 0 {
			t.Errorf("%q = %q, %v, %v", name, content, info, err)
		}
	}
	info, err := os.Stat(dest + "/dir")
	if err != nil || info.Mode() != fs.ModeDir|0o722 {
		t.Errorf("dir: %v, %v", info, err)
	}
	there, _ := os.ReadDir(dest)
	want(t, "entries", len(there), len(goodNames)+4)
	onlyChild(t, filepath.Dir(dest), "mos_demo-box")
}

func TestPullEndlessFile(t *testing.T) {
	for _, size := range []int64{3, 100 << 10} { // what it claims
		g := lying(t, &liar{
			list:    only(lie{"f", 0o644, size}),
			content: func(string) (io.ReaderAt, error) { return zeros{}, nil },
		})
		within(t, 10*time.Second, "pull", func() {
			_, err := Pull(t.Context(), g.dial(), g.paths, quiet(), PullOptions{MaxSize: 1 << 20})
			if err == nil || !strings.Contains(err.Error(), "more than 1.0 MiB") {
				t.Errorf("error %v", err)
			}
		})
		if left, _ := os.ReadDir(filepath.Dir(g.paths.Shared("mos_demo-box"))); len(left) > 0 {
			t.Errorf("%v is left", left)
		}
	}
}

func TestPullHugeClaim(t *testing.T) {
	for _, sizes := range [][2]int64{{1 << 62, 1 << 62}, {-1, 0}, {1 << 34, 1}} {
		g := lying(t, &liar{list: only(lie{"a", 0o644, sizes[0]}, lie{"b", 0o644, sizes[1]})})
		_, err := Pull(t.Context(), g.dial(), g.paths, quiet(), PullOptions{})
		if err == nil || !strings.Contains(err.Error(), "more than 16.0 GiB") {
			t.Errorf("sizes %d: error %v", sizes, err)
		}
	}
}

func TestPullCycle(t *testing.T) {
	g := lying(t, &liar{list: func(string) []fs.FileInfo { return []fs.FileInfo{lie{"again", fs.ModeDir | 0o755, 0}} }})
	_, err := Pull(t.Context(), g.dial(), g.paths, quiet(), PullOptions{})
	if err == nil || !strings.Contains(err.Error(), "folders deep") {
		t.Errorf("error %v", err)
	}
}

func TestPullWideAndDeep(t *testing.T) {
	g := lying(t, &liar{list: func(string) []fs.FileInfo {
		return []fs.FileInfo{lie{"a", fs.ModeDir | 0o755, 0}, lie{"b", fs.ModeDir | 0o755, 0}}
	}})
	_, err := Pull(t.Context(), g.dial(), g.paths, quiet(), PullOptions{MaxFiles: 500})
	if err == nil || !strings.Contains(err.Error(), "more than 500 entries") {
		t.Errorf("error %v", err)
	}
}

func TestPullWithheldFile(t *testing.T) {
	g := lying(t, &liar{
		list: only(lie{"a", 0o644, 7}, lie{"b", 0o644, 7}),
		content: func(file string) (io.ReaderAt, error) {
			if path.Base(file) == "a" {
				return nil, errors.New("\x1b[31mno\nway")
			}
			return strings.NewReader("content"), nil
		},
	})
	_, err := Pull(t.Context(), g.dial(), g.paths, quiet(), PullOptions{})
	if r, ok := errors.AsType[*RefusedError](err); !ok || r.Total != 1 || strings.ContainsAny(err.Error(), "\x1b\n") {
		t.Errorf("error %q", err)
	}
	onlyChild(t, g.paths.Shared("mos_demo-box"), "b")
}

// babbler answers SFTP by hand: hello, a handle for every folder, then list.
func babbler(t *testing.T, list func(ch io.Writer, id uint32)) *guest {
	return newGuest(t, func(g *guest) {
		g.sftp = func(ch ssh.Channel) {
			l := &lister{w: ch}
			if _, err := io.CopyN(io.Discard, ch, 9); err != nil {
				return
			}
			_ = l.send(fxpVersion, []byte{0, 0, 0, 3})
			for {
				var head [9]byte
				if _, err := io.ReadFull(ch, head[:]); err != nil {
					return
				}
				size, id := binary.BigEndian.Uint32(head[:]), binary.BigEndian.Uint32(head[5:])
				_, _ = io.CopyN(io.Discard, ch, int64(size)-5)
				if head[4] == fxpOpendir {
					_ = l.send(fxpHandle, append(binary.BigEndian.AppendUint32(nil, id), 0, 0, 0, 1, 'h'))
					continue
				}
				list(ch, id)
			}
		}
	})
}

// namesPacket is an SSH_FXP_NAME with one entry, count times claimed.
func namesPacket(id, count uint32, name string) []byte {
	b := binary.BigEndian.AppendUint32(nil, id)
	b = binary.BigEndian.AppendUint32(b, count)
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(name))), name...)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint32(b, attrMode)
	return binary.BigEndian.AppendUint32(b, syscall.S_IFREG|0o644)
}

func TestPullBabble(t *testing.T) {
	n := 0
	for name, list := range map[string]func(ch io.Writer, id uint32){
		"more than 1000 entries": func(ch io.Writer, id uint32) {
			n++
			_ = (&lister{w: ch}).send(fxpName, namesPacket(id, 1, fmt.Sprint(n)))
		},
		"has no end":              func(ch io.Writer, id uint32) { _ = (&lister{w: ch}).send(fxpName, namesPacket(id, 1, ".")) },
		"list has no end":         func(ch io.Writer, id uint32) { _ = (&lister{w: ch}).send(fxpName, namesPacket(id, 0, "")) },
		"broken packet":           func(ch io.Writer, id uint32) { _ = (&lister{w: ch}).send(fxpName, namesPacket(id, 1<<31, "x")) },
		"not asked":               func(ch io.Writer, id uint32) { _ = (&lister{w: ch}).send(fxpName, namesPacket(id+1, 1, "x")) },
		"packet of kind 77":       func(ch io.Writer, id uint32) { _ = (&lister{w: ch}).send(77, namesPacket(id, 1, "x")) },
		"packet of 4294967295 by": func(ch io.Writer, _ uint32) { _, _ = ch.Write([]byte{255, 255, 255, 255, fxpName}) },
		"packet of 0 bytes":       func(ch io.Writer, _ uint32) { _, _ = ch.Write([]byte{0, 0, 0, 0, fxpName}) },
		`\x1b[31m`: func(ch io.Writer, id uint32) {
			b := append(binary.BigEndian.AppendUint32(nil, id), 0, 0, 0, 4, 0, 0, 0, 7)
			_ = (&lister{w: ch}).send(fxpStatus, append(b, "\x1b[31m\n!"...))
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := babbler(t, list)
			within(t, 10*time.Second, "pull", func() {
				_, err := Pull(t.Context(), g.dial(), g.paths, quiet(), PullOptions{MaxFiles: 1000})
				if err == nil || !strings.Contains(err.Error(), name) || strings.ContainsAny(err.Error(), "\x1b\n") {
					t.Errorf("error %v, want %q", err, name)
				}
			})
		})
	}
}

// A name of 64 KiB is one entry that is refused, and told in few words.
func TestPullLongName(t *testing.T) {
	g := lying(t, &liar{list: only(lie{strings.Repeat("x", 64<<10), 0o644, 7})})
	_, err := Pull(t.Context(), g.dial(), g.paths, quiet(), PullOptions{})
	if r, ok := errors.AsType[*RefusedError](err); !ok || r.Total != 1 || len(r.Entries[0].String()) > 2000 {
		t.Errorf("error %.100v", err)
	}
}

// A link is asked once where it points: what was checked is what is made.
func TestPullLinkThatChanges(t *testing.T) {
	asked := 0
	g := lying(t, &liar{
		list: only(lie{"link", fs.ModeSymlink | 0o777, 0}),
		link: func() string {
			asked++
			return []string{"harmless", "/etc/passwd"}[min(asked, 2)-1]
		},
	})
	if _, err := Pull(t.Context(), g.dial(), g.paths, quiet(), PullOptions{}); err != nil {
		t.Fatal(err)
	}
	target, err := os.Readlink(filepath.Join(g.paths.Shared("mos_demo-box"), "link"))
	want(t, "link", []any{target, err, asked}, []any{"harmless", nil, 1})
}

// What was listed as a file may be a link or a pipe once it is opened: the bytes are a
// guest's in any case, and where none come the person ends it.
func TestPullFileThatBecomesAPipe(t *testing.T) {
	open := make(chan struct{})
	defer close(open)
	g := lying(t, &liar{list: only(lie{"f", 0o644, 7}), content: func(string) (io.ReaderAt, error) { <-open; return zeros{}, nil }})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	within(t, 5*time.Second, "pull", func() {
		if _, err := Pull(ctx, g.dial(), g.paths, quiet(), PullOptions{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
	if left, _ := os.ReadDir(filepath.Dir(g.paths.Shared("mos_demo-box"))); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// A guest opens nothing here: what OpenSSH's clients let a server open is refused.
func TestGuestOpensNothing(t *testing.T) {
	results := make(chan error, 10)
	kinds := []string{"forwarded-tcpip", "forwarded-streamlocal@openssh.com", "x11", "auth-agent@openssh.com", "session", "direct-tcpip", "tun@openssh.com"}
	g := newGuest(t, func(g *guest) {
		g.connected = func(server *ssh.ServerConn) {
			for _, kind := range kinds {
				at := struct {
					Host     string
					Port     uint32
					From     string
					FromPort uint32
				}{"127.0.0.1", 22, "127.0.0.1", 1}
				_, _, err := server.OpenChannel(kind, ssh.Marshal(at))
				results <- err
			}
		}
	})
	c := g.dial()
	for _, kind := range kinds {
		select {
		case err := <-results:
			if _, refused := errors.AsType[*ssh.OpenChannelError](err); !refused {
				t.Errorf("%s: %v, want a refusal", kind, err)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: no answer", kind)
		}
	}
	if err := Exec(t.Context(), c, quiet(), []string{"true"}, ExecOptions{}); err != nil {
		t.Error(err)
	}
}

// turncoat is a host key that becomes another.
type turncoat struct {
	ssh.Signer
	other  ssh.Signer
	turned atomic.Bool
}

func (s *turncoat) now() ssh.Signer {
	if s.turned.Load() {
		return s.other
	}
	return s.Signer
}

func (s *turncoat) PublicKey() ssh.PublicKey { return s.now().PublicKey() }

func (s *turncoat) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	return s.now().Sign(r, data)
}

// The host key has to be the pinned one whenever keys are exchanged anew.
func TestAnotherHostKeyLater(t *testing.T) {
	for _, turns := range []bool{false, true} {
		other, err := MakeKeys(layout.Paths{Root: t.TempDir()}, "mos_demo-box")
		if err != nil {
			t.Fatal(err)
		}
		signer := &turncoat{}
		if signer.other, err = ssh.ParsePrivateKey(other.HostPrivate); err != nil {
			t.Fatal(err)
		}
		g := newGuest(t, func(g *guest) {
			private, err := os.ReadFile(g.paths.HostKey("mos_demo-box"))
			if err != nil {
				t.Fatal(err)
			}
			if signer.Signer, err = ssh.ParsePrivateKey(private); err != nil {
				t.Fatal(err)
			}
			g.config.AddHostKey(signer)
			g.config.RekeyThreshold = 64 << 10
		})
		c := g.dial()
		signer.turned.Store(turns)
		argv := []string{"head", "-c", "1000000", "/dev/zero"}
		if turns {
			argv = []string{"cat", "/dev/zero"} // until the keys are exchanged, whenever that is
		}
		within(t, 20*time.Second, "exec", func() {
			err := Exec(t.Context(), c, quiet(), argv, ExecOptions{})
			if turns != errors.Is(err, ErrLost) || !turns && err != nil {
				t.Errorf("the key turns: %t, error %v", turns, err)
			}
		})
	}
}

func TestPullFromSilence(t *testing.T) {
	g := babbler(t, func(io.Writer, uint32) {})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	within(t, 5*time.Second, "pull", func() {
		if _, err := Pull(ctx, g.dial(), g.paths, quiet(), PullOptions{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}
