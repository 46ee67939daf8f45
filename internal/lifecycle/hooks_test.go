package lifecycle

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"meros/internal/family"
	"meros/internal/netfilter"
	"meros/internal/proc"
)

// telling is a hook that notes its phase, its name and its targets, in the order in
// which hooks are run.
const telling = "#!/bin/sh\necho \"$MEROS_PHASE ${0##*/} $MEROS_TARGETS\" >> told\n"

// told returns what telling hooks noted, F for the family, and forgets it.
func (b *bench) told() string {
	b.t.Helper()
	file := filepath.Join(b.Paths.Family(b.family), "told")
	content, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	_ = os.Remove(file)
	return strings.ReplaceAll(string(content), b.family, "F")
}

func (b *bench) wantTold(want ...string) {
	b.t.Helper()
	if got, want := b.told(), strings.Join(want, ""); got != want {
		b.t.Errorf("hooks told %q, want %q", got, want)
	}
}

// hook writes a hook of the family anew.
func (b *bench) hook(name, content string) {
	b.t.Helper()
	if err := b.Paths.WriteFile(filepath.Join(b.Paths.Family(b.family), "hooks", name), []byte(content), 0o755); err != nil {
		b.t.Fatal(err)
	}
}

// counting tells each program how many guests of the bench run.
type counting struct {
	proc.Runner
	bench *bench
}

func (c counting) Run(ctx context.Context, cmd proc.Cmd) error {
	guests := 0
	for _, name := range c.bench.runs() {
		if strings.HasPrefix(name, "-") {
			guests++
		}
	}
	cmd.Env = append(cmd.Env, "GUESTS="+strconv.Itoa(guests))
	return c.Runner.Run(ctx, cmd)
}

// phases is a family with a telling hook in each phase.
func phases() map[string]string {
	files := pair()
	for _, name := range []string{"2", "pre-start/1", "post-start/1", "pre-stop/1", "post-stop/1"} {
		files["hooks/"+name] = telling
	}
	return files
}

const (
	toldUp   = "pre-start 1 F-a F-b\npost-start 2 F-a F-b\npost-start 1 F-a F-b\n"
	toldDown = "pre-stop 1 F-a F-b\npost-stop 1 F-a F-b\n"
)

func TestHookPhases(t *testing.T) {
	b := newBench(t, testURI, phases())
	// What runs is seen by each hook as its phase says.
	for phase, want := range map[string]string{"pre-start": "0", "post-start": "2", "pre-stop": "2", "post-stop": "0"} {
		b.hook(phase+"/1", telling+"test $GUESTS = "+want+"\n")
	}
	b.Runner = counting{b.Runner, b}
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatal(err)
	}
	b.wantTold(toldUp)
	if n, err := b.Shutdown(t.Context(), ShutdownOptions{Family: b.family, Force: true}); n != 3 || err != nil {
		t.Errorf("Shutdown = %d, %v", n, err)
	}
	b.wantTold(toldDown)
	// Where nothing runs and nothing is owed, no hook is run.
	if _, err := b.Shutdown(t.Context(), ShutdownOptions{Family: b.family}); err != nil {
		t.Error(err)
	}
	b.wantTold()
}

func TestHooksOfOneTarget(t *testing.T) {
	b := newBench(t, testURI, phases())
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatal(err)
	}
	b.told()
	if _, err := b.Shutdown(t.Context(), ShutdownOptions{Family: b.family, Target: "a", Force: true}); err != nil {
		t.Error(err)
	}
	b.wantTold("pre-stop 1 F-a\npost-stop 1 F-a\n")
	b.wantRuns("-b", "_net")
	if _, err := b.Shutdown(t.Context(), ShutdownOptions{Force: true}); err != nil {
		t.Error(err)
	}
	b.wantTold("pre-stop 1 F-b\npost-stop 1 F-b\n")
	if left := b.hooked(); len(left) != 0 {
		t.Errorf("still owed: %q", left)
	}
}

func TestHookEnvironment(t *testing.T) {
	files := pair()
	files["hooks/01-env"] = "#!/bin/sh\necho \"$MEROS_FAMILY:$MEROS_TARGETS:$NETWORK_FULL_ID:$TARGET_FULL_ID:$MEROS_PHASE:$SECRET\" > told\necho said; echo wrong >&2\n"
	b := newBench(t, testURI, files)
	t.Setenv("SECRET", "x")
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatal(err)
	}
	b.wantTold("F:F-a F-b:F_net::post-start:\n")
	log, err := os.ReadFile(b.Paths.Log("hooks-" + b.family))
	if err != nil || !strings.Contains(string(log), " post-start 01-env\nsaid\nwrong\n") && !strings.Contains(string(log), " post-start 01-env\nwrong\nsaid\n") {
		t.Errorf("the log is %q, %v", log, err)
	}
}

// A hook that fails in init is undone by those of post-stop, as is one before it
// that has set something up.
func TestFailingHook(t *testing.T) {
	b := newBench(t, testURI, phases())
	bad := telling + "echo one >&2\necho two >&2\nexit 7\n"
	for _, phase := range []string{"pre-start", "post-start"} {
		b.hook(phase+"/1", bad)
		b.wantError(b.init(t.Context(), InitOptions{}), phase+" hook 1: exit status 7\n  one\n  two", "meros log hooks-"+b.family)
		b.wantRuns()
		if got := b.told(); !strings.HasSuffix(got, phase+" 1 F-a F-b\npost-stop 1 F-a F-b\n") {
			t.Errorf("hooks told %q", got)
		}
		if left := b.hooked(); len(left) != 0 {
			t.Errorf("still owed: %q", left)
		}
		b.hook(phase+"/1", telling)
	}
	// Nothing keeps a family from being stopped.
	for _, phase := range []string{"pre-stop", "post-stop"} {
		if err := b.init(t.Context(), InitOptions{}); err != nil {
			t.Fatal(err)
		}
		b.told()
		b.hook(phase+"/1", bad)
		_, err := b.Shutdown(t.Context(), ShutdownOptions{Family: b.family, Force: true})
		b.wantError(err, phase+" hook 1: exit status 7\n  one\n  two")
		b.wantRuns()
		b.wantTold(toldDown)
		b.hook(phase+"/1", telling)
	}
	// One of post-stop that failed is owed.
	if _, err := b.Shutdown(t.Context(), ShutdownOptions{}); err != nil {
		t.Error(err)
	}
	b.wantTold("post-stop 1 \n")
}

// What a meros that was killed left half set up is undone by the next shutdown.
func TestHooksAfterACrash(t *testing.T) {
	b := newBench(t, testURI, phases())
	f, err := family.Load(b.Paths, b.family)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.noteHooked(f); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := b.Shutdown(t.Context(), ShutdownOptions{}); err != nil {
			t.Error(err)
		}
	}
	b.wantTold("post-stop 1 \n")
}

func TestStopHooksWithoutARecipe(t *testing.T) {
	b := newBench(t, testURI, phases())
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatal(err)
	}
	b.told()
	b.hook("pre-stop/1", "no program")
	if _, err := b.Shutdown(t.Context(), ShutdownOptions{Family: b.family, Force: true}); err != nil {
		t.Error(err)
	}
	b.wantRuns()
	if said := b.said.String(); !strings.Contains(said, "its hooks of pre-stop and post-stop are not run: ") {
		t.Errorf("it said %q", said)
	}
	b.hook("pre-stop/1", telling)
}

func TestHookIsLate(t *testing.T) {
	for name, hook := range map[string]string{"waits": "exec sleep 60\n", "leaves a daemon": "sleep 60 &\n"} {
		t.Run(name, func(t *testing.T) {
			files := pair()
			files["hooks/1"] = "#!/bin/sh\n" + hook
			b := newBench(t, testURI, files)
			b.HookTime = 300 * time.Millisecond
			err := b.init(t.Context(), InitOptions{})
			b.wantError(err, "post-start hook 1: not done within 300ms")
			if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
				t.Errorf("the error is one of a context: %v", err)
			}
			b.wantRuns()
		})
	}
}

func TestFlushingHookIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		file, hook string
		refused    bool
	}{
		"plain":        {"hooks/1", "#!/bin/sh\ntrue && nft flush ruleset || true\n", true},
		"of stop":      {"hooks/post-stop/1", "#!/usr/bin/env nft\n\tflush   ruleset\n", true},
		"continued":    {"hooks/pre-start/1", "#!/bin/sh\nfalse && nft flush \\\n  ruleset || true\n", true},
		"of one table": {"hooks/1", "#!/bin/sh\n: nft flush table inet x\n", false},
		"said":         {"hooks/pre-stop/1", "#!/bin/sh\n# never flush ruleset\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			files := pair()
			files[c.file] = c.hook
			b := newBench(t, testURI, files)
			err := b.init(t.Context(), InitOptions{})
			if !c.refused {
				if err != nil {
					t.Error(err)
				}
				return
			}
			b.wantError(err, "hook 1 contains `flush ruleset`", "--trust-hooks")
			b.wantRuns()
		})
	}
}

func TestTrustedHook(t *testing.T) {
	files := phases()
	files["hooks/pre-start/1"] = telling + ": nft flush ruleset\n"
	files["hooks/pre-stop/1"] = telling + ": nft flush ruleset\n"
	b := newBench(t, testURI, files)
	if err := b.init(t.Context(), InitOptions{TrustHooks: true}); err != nil {
		t.Fatal(err)
	}
	b.wantTold(toldUp)
	_, err := b.Shutdown(t.Context(), ShutdownOptions{Family: b.family, Force: true})
	b.wantError(err, "pre-stop hook 1 contains `flush ruleset`")
	b.wantRuns()
	b.wantTold("post-stop 1 F-a F-b\n")
	if err := b.init(t.Context(), InitOptions{TrustHooks: true}); err != nil {
		t.Fatal(err)
	}
	b.told()
	if _, err := b.Shutdown(t.Context(), ShutdownOptions{Family: b.family, Force: true, TrustHooks: true}); err != nil {
		t.Error(err)
	}
	b.wantTold(toldDown)
}

// A hook of pre-stop that takes the family's rules away ends its guests at once:
// they get no time to power off in.
func TestRulesGoneInPreStop(t *testing.T) {
	files := guarded()
	files["hooks/pre-stop/1"] = "#!/bin/sh\nnft delete table inet " + netfilter.Table("@F@") + "\n"
	b, _ := newGuardedBench(t, files)
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatalf("%v\n%s", err, b.said)
	}
	if _, err := b.Shutdown(t.Context(), ShutdownOptions{Family: b.family, Grace: time.Hour}); err != nil {
		t.Error(err)
	}
	b.wantRuns()
	if said := b.said.String(); !strings.Contains(said, "are changed after its hooks: the power of its guests is cut") {
		t.Errorf("it said %q", said)
	}
}

func TestInterruptedHook(t *testing.T) {
	files := pair()
	files["hooks/pre-start/1"] = "#!/bin/sh\ntouch begun\nexec sleep 60\n"
	files["hooks/post-stop/1"] = telling
	b := newBench(t, testURI, files)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(filepath.Join(b.Paths.Family(b.family), "begun")); err == nil {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if err := b.init(ctx, InitOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Init = %v, want context.Canceled", err)
	}
	b.wantRuns()
	b.wantTold("post-stop 1 F-a F-b\n")
}
