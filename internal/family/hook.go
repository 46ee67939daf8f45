package family

import (
	"path"
	"slices"
)

// HookPhase says when a program of hooks/ runs on the host.
type HookPhase string

// The phases, each with a folder of its name in hooks/. A program that lies in
// hooks/ itself is of HookPostStart, as it was in older recipes.
const (
	HookPreStart  HookPhase = "pre-start"  // before init makes rules, networks, guests
	HookPostStart HookPhase = "post-start" // once the guests run
	HookPreStop   HookPhase = "pre-stop"   // while the guests still run
	HookPostStop  HookPhase = "post-stop"  // once guests, networks and rules are gone
)

var hookPhases = []string{string(HookPreStart), string(HookPostStart), string(HookPreStop), string(HookPostStop)}

// hostHooks reads the programs that run on the host.
func (l *loader) hostHooks() {
	hooks := map[HookPhase][]string{}
	add := func(phase HookPhase, paths []string) {
		if len(paths) > 0 {
			hooks[phase] = append(hooks[phase], paths...)
		}
	}
	add(HookPostStart, l.hooks("hooks", hookPhases...))
	for _, name := range hookPhases {
		if folder := path.Join("hooks", name); l.isDir(folder) {
			add(HookPhase(name), l.hooks(folder))
		}
	}
	if len(hooks) > 0 {
		l.family.Hooks = hooks
	}
}

// isPhase faults a folder that was meant to be a phase's, and reports whether it is
// one or was meant to be.
func (l *loader) isPhase(name string, phases []string) bool {
	if slices.Contains(phases, path.Base(name)) {
		return true
	}
	near, ok := misspelt(path.Base(name), phases)
	if ok {
		l.file(name).fault(0, "", "is no phase of hooks: was %s meant?", near)
	}
	return ok
}
