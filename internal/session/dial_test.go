package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/layout"
)

func TestMakeKeys(t *testing.T) {
	paths := layout.Paths{Root: t.TempDir()}
	first, err := MakeKeys(paths, "mos_demo-box")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{paths.ClientKey("mos_demo-box"), paths.HostKey("mos_demo-box")} {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		want(t, "mode", info.Mode(), fs.FileMode(0o600))
		if err := os.WriteFile(file+".pub", []byte("spoilt"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(paths.ClientKey("mos_demo-box") + ".pub"); err != nil {
		t.Fatal(err)
	}
	again, err := MakeKeys(paths, "mos_demo-box")
	if err != nil {
		t.Fatal(err)
	}
	want(t, "keys after repair", again, first)
	read, err := ReadKeys(paths, "mos_demo-box")
	if err != nil {
		t.Fatal(err)
	}
	want(t, "keys that are read", read, first)
	if _, err := ReadKeys(paths, "mos_demo-none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadKeys of a target without keys: %v, want ErrNotExist", err)
	}
	public, err := os.ReadFile(paths.HostKey("mos_demo-box") + ".pub")
	if err != nil || string(public) != string(first.HostPublic) {
		t.Errorf("host key's public half = %q, %v, want %q", public, err, first.HostPublic)
	}
	other, err := MakeKeys(paths, "mos_demo-other")
	if err != nil || sameKey(other.AuthorizedKey, first.AuthorizedKey) || sameKey(other.HostPublic, other.AuthorizedKey) {
		t.Errorf("keys are shared: %v", err)
	}
}

func TestMakeKeysKeepsWhatItCannotRead(t *testing.T) {
	paths := layout.Paths{Root: t.TempDir()}
	file := paths.ClientKey("mos_demo-box")
	if err := paths.WriteFile(file, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := MakeKeys(paths, "mos_demo-box"); err == nil || len(hint.Of(err)) == 0 {
		t.Errorf("error %v, want one with a hint", err)
	}
	if left, _ := os.ReadFile(file); string(left) != "no key" {
		t.Errorf("the file became %q", left)
	}
}

func TestDialChoosesWhatEmulatedGuestsDoFast(t *testing.T) {
	g := newGuest(t, nil)
	c := g.dial()
	conn, ok := c.client.Conn.(ssh.AlgorithmsConnMetadata)
	if !ok {
		t.Fatal("no algorithms")
	}
	want(t, "cipher", conn.Algorithms().Write.Cipher, ssh.CipherAES128CTR)
	want(t, "MAC", conn.Algorithms().Write.MAC, ssh.HMACSHA512ETM)
	want(t, "host key", conn.Algorithms().HostKey, ssh.KeyAlgoED25519)
}

// wantsConsole fails unless an error names the way in that needs no network.
func wantsConsole(t *testing.T, err error) {
	t.Helper()
	if hints := strings.Join(hint.Of(err), "\n"); !strings.Contains(hints, "meros console mos_demo-box") {
		t.Errorf("error %q has the hints %q, want the console among them", err, hints)
	}
}

// stageOf calls Ready and returns the stage at which it stands.
func stageOf(t *testing.T, g *guest) (Stage, error) {
	t.Helper()
	err := Ready(t.Context(), g.paths, g.target, time.Second, func(Stage) {})
	d, ok := errors.AsType[*DialError](err)
	if !ok {
		t.Fatalf("Ready: error %v, want a DialError", err)
	}
	if !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v does not match ErrUnreachable", err)
	}
	return d.Stage, err
}

func TestReady(t *testing.T) {
	g := newGuest(t, nil)
	var passed []Stage
	if err := Ready(t.Context(), g.paths, g.target, time.Second, func(s Stage) { passed = append(passed, s) }); err != nil {
		t.Errorf("Ready = %v, want nil", err)
	}
	if want := []Stage{StagePort, StageHostKey}; !slices.Equal(passed, want) {
		t.Errorf("it passed %v, want %v", passed, want)
	}
}

func TestReadyStages(t *testing.T) {
	other := layout.Paths{Root: t.TempDir()}
	strange, err := MakeKeys(other, "mos_demo-box")
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := ssh.ParsePrivateKey(strange.HostPrivate)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		stage  Stage
		is     error
		words  string
		change func(*guest)
	}{
		{"no keys", StageKeys, ErrNotBuilt, "has not been built", func(g *guest) { g.paths = other; g.target.Name = "none" }},
		{"wrong host key", StageHostKey, ErrHostKey, ssh.FingerprintSHA256(stranger.PublicKey()), func(g *guest) { g.config.AddHostKey(stranger) }},
		{"key refused", StageLogin, ErrRefused, "login as user refused", func(g *guest) {
			g.config.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, errors.New("no") }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t, c.change)
			stage, err := stageOf(t, g)
			want(t, "stage", stage, c.stage)
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.words) || len(hint.Of(err)) == 0 {
				t.Errorf("error %q with hints %q, want %q in it and a hint", err, hint.Of(err), c.words)
			}
			d, _ := errors.AsType[*DialError](err)
			want(t, "fatal", d.Fatal(), c.stage == StageKeys || c.stage == StageHostKey)
		})
	}
}

// stub makes a guest's port do what serve does with each connection.
func stub(t *testing.T, g *guest, serve func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	g.point(l.Addr())
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
			go serve(conn)
		}
	}()
}

func TestReadyPortStages(t *testing.T) {
	g := newGuest(t, nil)
	stub(t, g, func(net.Conn) {})
	stage, err := stageOf(t, g)
	want(t, "stage of a silent port", stage, StageBanner)
	wantsConsole(t, err)
	if !strings.Contains(err.Error(), "timed out") {
		t.Errorf("error %q does not say timed out", err)
	}
	stub(t, g, func(c net.Conn) { _ = c.Close() })
	stage, err = stageOf(t, g)
	want(t, "stage of a port that hangs up", stage, StageBanner)
	wantsConsole(t, err)
	stub(t, g, func(c net.Conn) { fmt.Fprintf(c, "\x1b[31mHTTP 400\r\n\r\n"); _ = c.Close() })
	stage, err = stageOf(t, g)
	want(t, "stage of a port that babbles", stage, StageProtocol)
	wantsConsole(t, err)
	if strings.ContainsAny(err.Error(), "\x1b\n\r") {
		t.Errorf("error %q is not clean", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.point(l.Addr())
	_ = l.Close()
	stage, err = stageOf(t, g)
	want(t, "stage of a closed port", stage, StagePort)
	wantsConsole(t, err)
	if !strings.Contains(err.Error(), "connection refused") || !strings.Contains(strings.Join(hint.Of(err), " "), "meros init mos_demo-box") {
		t.Errorf("error %q, hints %q", err, hint.Of(err))
	}
}

func TestDialEndsWithContext(t *testing.T) {
	g := newGuest(t, nil)
	stub(t, g, func(net.Conn) {})
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
	within(t, 3*time.Second, "Dial", func() {
		if _, err := Dial(ctx, g.paths, g.target); !errors.Is(err, cause) {
			t.Errorf("error %v, want the context's cause", err)
		}
	})
}

func TestDialWithoutSession(t *testing.T) {
	_, err := Dial(t.Context(), layout.Paths{}, &family.Target{Family: "mos_demo", Name: "box"})
	if !errors.Is(err, ErrNoSession) || len(hint.Of(err)) == 0 {
		t.Errorf("error %v, hints %q", err, hint.Of(err))
	}
}

// TestDeadLink has a network that swallows everything from some moment on.
func TestDeadLink(t *testing.T) {
	g := newGuest(t, nil)
	real := net.JoinHostPort(g.target.Addr.String(), fmt.Sprint(g.target.SSHPort))
	var cut atomic.Bool
	stub(t, g, func(near net.Conn) {
		far, err := net.Dial("tcp", real)
		if err != nil {
			return
		}
		defer far.Close()
		go leak(far, near, &cut)
		leak(near, far, &cut)
	})
	const every = 20 * time.Millisecond
	c := g.dialTicking(every)
	time.Sleep(15 * every) // quiet, but alive: it answers when asked
	if err := Exec(t.Context(), c, quiet(), []string{"true"}, ExecOptions{}); err != nil {
		t.Fatalf("a quiet link: %v", err)
	}
	time.AfterFunc(50*time.Millisecond, func() { cut.Store(true) })
	within(t, 5*time.Second, "noticing", func() {
		err := Exec(t.Context(), c, quiet(), []string{"sleep", "60"}, ExecOptions{})
		if !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "nothing came from the guest for") {
			t.Errorf("error %v, want a lost connection", err)
		}
	})
}

// leak copies until cut, then reads on and throws away.
func leak(dst io.Writer, src io.Reader, cut *atomic.Bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if err != nil {
			return
		}
		if !cut.Load() {
			_, _ = dst.Write(buf[:n])
		}
	}
}

func TestLostConnection(t *testing.T) {
	g := newGuest(t, nil)
	c := g.dial()
	time.AfterFunc(100*time.Millisecond, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, conn := range g.conns {
			_ = conn.Close()
		}
	})
	err := Exec(t.Context(), c, quiet(), []string{"sleep", "60"}, ExecOptions{})
	if !errors.Is(err, ErrLost) || !strings.HasPrefix(err.Error(), c.fullID+": connection lost: ") {
		t.Errorf("error %v, want ErrLost with the full id", err)
	}
	if hints := strings.Join(hint.Of(err), "\n"); !strings.Contains(hints, "meros info "+c.fullID) || !strings.Contains(hints, "meros console "+c.fullID) {
		t.Errorf("hints %q", hints)
	}
}
