package lifecycle

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"meros/internal/rootfs"
	"meros/internal/store"
)

// readStage is what a stage of the last build read.
type readStage struct {
	Name  string        `json:"name"`
	Reads []store.Piece `json:"reads"`
}

// all are the stages of the build, packing included.
func (w *work) all() []readStage {
	var stages []readStage
	for _, s := range w.stages {
		stages = append(stages, readStage{s.Name, s.Reads})
	}
	return append(stages, readStage{stepPack, w.reads})
}

// remember keeps what this build read, so that the next can say what changed.
func (w *work) remember() error {
	content, err := json.Marshal(w.all())
	if err != nil {
		return err
	}
	return w.Paths.WriteFile(w.Paths.LastPlan(w.t.FullID()), content, 0o644)
}

// last is what the last build read, by stage. Without one, or with a file that
// cannot be read, nothing is known of it.
func (w *work) last() map[string][]store.Piece {
	content, err := os.ReadFile(w.Paths.LastPlan(w.t.FullID()))
	if err != nil {
		return nil
	}
	var stages []readStage
	if json.Unmarshal(content, &stages) != nil {
		return nil
	}
	last := map[string][]store.Piece{}
	for _, s := range stages {
		last[s.Name] = s.Reads
	}
	return last
}

// explain prints to Out, a line a stage, what a build would do and why.
func (w *work) explain() error {
	last := w.last()
	redo := map[string]bool{}
	for _, s := range w.stages {
		_, have := w.store.Layer(s.Key)
		redo[s.Name] = !have
	}
	redo[stepPack] = !w.upToDate()
	before := ""
	for _, s := range w.all() {
		line := "kept"
		if redo[s.Name] {
			line = "again: " + why(s, last, before)
			before = s.Name
		}
		if _, err := fmt.Fprintf(w.Out, "%s  %-9s  %s\n", w.t.FullID(), s.Name, line); err != nil {
			return err
		}
	}
	return nil
}

// why says in words why a stage is done again. before is the stage before it if
// that is done again too.
func why(s readStage, last map[string][]store.Piece, before string) string {
	known, ok := last[s.Name]
	if !ok {
		return "not done yet"
	}
	changes := store.Changes(known, s.Reads, rootfs.Below)
	if before != "" {
		changes = append(changes, before+" is done again")
	}
	if len(changes) == 0 {
		return "its result is not in the cache"
	}
	return strings.Join(changes, "; ")
}
