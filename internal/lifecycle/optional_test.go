package lifecycle

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/family"
	"meros/internal/layout"
	"meros/internal/ui"
)

func targetNames(targets []*family.Target) string {
	var all []string
	for _, t := range targets {
		all = append(all, t.Name)
	}
	return strings.Join(all, " ")
}

func TestInitLeavesOutWhatIsOptionalAndNotBuilt(t *testing.T) {
	var out, told bytes.Buffer
	g := Guests{Streams: &ui.Streams{Out: &out, Err: &told}, Paths: layout.Paths{Root: t.TempDir()}}
	target := func(name string, optional bool) *family.Target {
		return &family.Target{Family: "f", Name: name, Rootfs: true, Optional: optional}
	}
	box, one, two := target("box", false), target("one", true), target("two", true)
	image := g.Paths.Image(two.FullID())
	if err := os.MkdirAll(filepath.Dir(image), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := targetNames(g.built([]*family.Target{box, one, two})); got != "box two" {
		t.Errorf("started are %q, want box, which may not be left out, and two, which is built", got)
	}
	if !strings.Contains(told.String(), "f-one: left out: it is optional") || strings.Contains(told.String(), "f-two") {
		t.Errorf("told is %q", &told)
	}
	if got := targetNames(g.built([]*family.Target{one})); got != "one" {
		t.Errorf("of a family with nothing else, %q are started, want the error that one brings", got)
	}
}

func TestOnlyAMirrorThatIsNotThereLeavesATargetOut(t *testing.T) {
	b := Builder{Paths: layout.Paths{Root: t.TempDir()}}
	target := &family.Target{Family: "f", Name: "a", Distro: "alpine", Optional: true, Rootfs: true, Mirror: "http://127.0.0.1:1", Release: "3.20"}
	if why, err := b.leftOut(t.Context(), target, BuildOptions{}); why == nil || err != nil || !strings.Contains(why.Error(), "refused") {
		t.Errorf("leftOut = %v, %v, want the refusal as the reason", why, err)
	}
	if why, err := b.leftOut(t.Context(), target, BuildOptions{Offline: true}); !errors.Is(why, errNotKept) || err != nil {
		t.Errorf("offline: leftOut = %v, %v", why, err)
	}
	if why, err := b.leftOut(t.Context(), target, BuildOptions{Named: true}); why != nil || err != nil {
		t.Errorf("named: leftOut = %v, %v, want neither", why, err)
	}
	target.Includes = []string{t.TempDir() + "/\x00"}
	if why, err := b.leftOut(t.Context(), target, BuildOptions{}); why != nil || err == nil {
		t.Errorf("a recipe that cannot be read: leftOut = %v, %v, want an error", why, err)
	}
	target.Includes, target.Optional = nil, false
	if why, err := b.leftOut(t.Context(), target, BuildOptions{}); why != nil || err != nil {
		t.Errorf("not optional: leftOut = %v, %v, want neither", why, err)
	}
}
