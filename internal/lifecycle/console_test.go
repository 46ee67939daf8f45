package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meros/internal/family"
	"meros/internal/proc"
	"meros/internal/virt"
	"meros/internal/virt/virttest"
)

// newDiskBench is a family of one guest with a disk, on no network, which answers
// on its console.
func newDiskBench(t *testing.T) *bench {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a guest under QEMU")
	}
	b := newBench(t, qemuURI, map[string]string{"libvirt/box.xml": virttest.Domain})
	b.openUp()
	b.placeImage("box")
	return b
}

// openUp lets libvirt's qemu user get to the root's files, as in use.
func (b *bench) openUp() {
	for at := b.Paths.Root; at != os.TempDir() && len(at) > 1; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			return
		}
	}
}

// placeImage gives a target an image whose boot sector is virttest's guest.
func (b *bench) placeImage(target string) {
	b.t.Helper()
	raw := filepath.Join(b.t.TempDir(), "raw")
	image := b.Paths.Image(b.family + "-" + target)
	err := errors.Join(os.WriteFile(raw, virttest.Guest(), 0o644), b.Paths.MkdirAll(b.Paths.Images(), 0o755))
	if err == nil {
		err = proc.Host{}.Run(b.t.Context(), proc.Cmd{Argv: []string{"qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image}})
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// await waits until a stream holds a text.
func (w *talk) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(w.String(), text); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q never came: %q", text, w)
		}
	}
}

// console opens the console of the bench's box.
func (b *bench) console(force bool) (keys io.Writer, screen *talk, ended chan error) {
	b.t.Helper()
	d, dom, err := b.Running(b.t.Context(), b.family+"-box")
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { d.Close() })
	in, typed := io.Pipe()
	screen, ended = &talk{}, make(chan error, 1)
	go func() {
		err := d.Console(context.Background(), dom, in, screen, force)
		_ = in.CloseWithError(fmt.Errorf("the console ended: %w", errors.Join(err, io.EOF)))
		ended <- err
	}()
	return typed, screen, ended
}

func ends(t *testing.T, ended chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("the console does not end")
		return nil
	}
}

func press(t *testing.T, w io.Writer, keys string) {
	t.Helper()
	if _, err := io.WriteString(w, keys); err != nil {
		t.Fatal(err)
	}
}

func TestQEMUConsole(t *testing.T) {
	b := newDiskBench(t)
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatalf("%v\n%s", err, b.said)
	}
	keys, screen, ended := b.console(false)
	// The firmware drops what is typed before the guest reads: try until it answers.
	for deadline := time.Now().Add(time.Minute); !strings.Contains(screen.String(), "x"); time.Sleep(100 * time.Millisecond) {
		if press(t, keys, "x"); time.Now().After(deadline) {
			t.Fatalf("no echo: %q", screen)
		}
	}
	press(t, keys, "hello, guest")
	screen.await(t, "hello, guest")
	_, _, second := b.console(false)
	b.wantError(ends(t, second), "console of "+b.family+"-box", "--force")

	press(t, keys, "abc\x1dnever sent")
	if err := ends(t, ended); err != nil {
		t.Errorf("after ^] Console = %v", err)
	}
	keys, screen, ended = b.console(false)
	press(t, keys, "again")
	screen.await(t, "again")
	if strings.Contains(screen.String(), "never") {
		t.Errorf("what was typed behind ^] reached the guest: %q", screen)
	}
	_, _, third := b.console(true)
	if err := ends(t, ended); !errors.Is(err, virt.ErrConsoleClosed) {
		t.Errorf("taken over: Console = %v, want ErrConsoleClosed", err)
	}
	b.cleanUp()
	if err := ends(t, third); !errors.Is(err, virt.ErrPoweredOff) {
		t.Errorf("powered off: Console = %v, want ErrPoweredOff", err)
	}
}

func TestQEMUConsoleWithoutInput(t *testing.T) {
	b := newDiskBench(t)
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatalf("%v\n%s", err, b.said)
	}
	d, dom, err := b.Running(t.Context(), b.family+"-box")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx, cancel := context.WithCancel(t.Context())
	screen, ended := &talk{}, make(chan error, 1)
	go func() { ended <- d.Console(ctx, dom, strings.NewReader(""), screen, false) }()
	select {
	case err := <-ended:
		t.Errorf("the end of the input ended the console: %v", err)
	case <-time.After(time.Second):
	}
	cancel()
	if err := ends(t, ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Console = %v, want context.Canceled", err)
	}
}

func TestRunning(t *testing.T) {
	b := newBench(t, testURI, pair())
	_, _, err := b.Running(t.Context(), b.family+"-a")
	b.wantError(err, "-a does not run", "meros init "+b.family+"-a")
	if _, _, err := b.Running(t.Context(), b.family+"-zzz"); !errors.Is(err, family.ErrNotFound) {
		t.Errorf("Running of no target = %v", err)
	}
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatal(err)
	}
	d, dom, err := b.Running(t.Context(), b.family+"-a")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b.wantError(d.Console(t.Context(), dom, strings.NewReader(""), io.Discard, false), "console of "+b.family+"-a")
}
