package lifecycle

import (
	"context"
	"os"
	"testing"
	"time"

	"meros/internal/family"
	"meros/internal/session"
)

// onConsole is a family of one guest without a session, whose kernel prints texts,
// half a second apart.
func onConsole(t *testing.T, printed ...string) *bench {
	t.Helper()
	b := newBench(t, testURI, map[string]string{
		"libvirt/box.xml": `<domain type="test"><memory unit="MiB">16</memory><os><type>hvm</type></os><devices/></domain>`,
		"build/box.xml":   `<target><build id="box" kernel="source" rootfs="yes" distro="debian"/></target>`,
	})
	id := b.family + "-box"
	for _, file := range []string{b.Paths.Kernel(id), b.Paths.Image(id)} {
		if err := b.Paths.WriteFile(file, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b.Ready = func(context.Context, *family.Target, func(session.Stage)) error {
		t.Error("a guest without a session was knocked at")
		return nil
	}
	b.Silence = 2 * time.Second
	go func() {
		for ; t.Context().Err() == nil && len(printed) > 0; time.Sleep(20 * time.Millisecond) {
			f, err := os.OpenFile(consoleLog(b.Paths, id), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				continue // it is not started yet
			}
			_, _ = f.WriteString(printed[0])
			_ = f.Close()
			printed = printed[1:]
			time.Sleep(500 * time.Millisecond)
		}
	}()
	return b
}

func TestPanicWithoutSession(t *testing.T) {
	b := onConsole(t, "[    0.000000] Linux version 6.1.0\n[    1.1] Kernel panic - not syncing: VFS: Unable to mount root fs\n")
	b.wantError(b.init(t.Context(), InitOptions{Timeout: time.Minute}), `-box: after "kernel up": Kernel panic - not syncing: VFS`, "the last lines of its console", "root=")
	b.wantRuns()
}

// An init that ends at once is a panic a moment later.
func TestInitThatEndsWithoutSession(t *testing.T) {
	b := onConsole(t, "[    1.000000] Run /sbin/init as init process\n", "[    1.1] Kernel panic - not syncing: Attempted to kill init!\n")
	b.wantError(b.init(t.Context(), InitOptions{Timeout: time.Minute}), "Attempted to kill init!")
}

func TestInitReachedWithoutSession(t *testing.T) {
	b := onConsole(t, "[    1.000000] Run /sbin/init as init process\n")
	started := time.Now()
	if err := b.init(t.Context(), InitOptions{Timeout: time.Minute}); err != nil {
		t.Fatal(err)
	}
	b.said.await(t, "init reached after")
	b.wantRuns("-box")
	// What runs already is not listened to again.
	if err := b.init(t.Context(), InitOptions{Timeout: time.Minute}); err != nil || time.Since(started) > 10*time.Second {
		t.Errorf("a second init = %v after %s", err, time.Since(started))
	}
}

func TestSilentConsoleWithoutSession(t *testing.T) {
	for printed, want := range map[string]string{
		"":                                     `it got as far as "domain running", and its console has been silent for 2s`,
		"[    0.000000] Linux version 6.1.0\n": `it got as far as "kernel up", and its console has been silent for 2s`,
	} {
		b := onConsole(t, printed)
		if err := b.init(t.Context(), InitOptions{Timeout: time.Minute}); err != nil {
			t.Fatal(err)
		}
		b.said.await(t, want)
		b.wantRuns("-box")
	}
}
