package lifecycle

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"meros/internal/family"
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

// explainKernel prints what a build would do about a kernel that is not of the
// target's rootfs; nothing for a target that has none.
func (b Builder) explainKernel(t *family.Target) error {
	why, err := b.kernelChange(t)
	if err != nil || !t.OwnKernel() {
		return err
	}
	line := "kept"
	if why != "" {
		line = "again: " + why
	}
	return b.explainLine(t, "kernel", line)
}

func (b Builder) explainLine(t *family.Target, stage, line string) error {
	_, err := fmt.Fprintf(b.Out, "%s  %-9s  %s\n", t.FullID(), stage, line)
	return err
}

// kernelChange says why a target would get another kernel; "": it would not.
func (b Builder) kernelChange(t *family.Target) (string, error) {
	sum := prebuiltSum(t)
	if t.Kernel == family.KernelSource {
		next, err := b.kernelBuilder().Next(kernelArch(t))
		if err != nil || next.Why != "" {
			return next.Why, err
		}
		sum = next.Record.SHA256
	}
	record, _ := ReadImageRecord(b.Paths, t.FullID()) // without one, there is no kernel either
	switch {
	case !exists(b.Paths.Kernel(t.FullID())), record.Kernel == "":
		return "not there yet", nil
	case record.Kernel != t.Kernel:
		return fmt.Sprintf("it was %s, now it is %s", record.Kernel, t.Kernel), nil
	case record.KernelSum != sum:
		return "another one than " + record.KernelVersion + " is wanted now", nil
	}
	return "", nil
}

// explain prints to Out, a line a stage, what a build would do and why.
func (w *work) explain() error {
	if err := w.explainKernel(w.t); err != nil {
		return err
	}
	last := w.last()
	kept := map[string]string{}
	for _, s := range w.stages {
		if l, have := w.store.Layer(s.Key); have {
			kept[s.Name] = "kept" + ofDay(s, l)
		}
	}
	if w.upToDate() {
		kept[stepPack] = "kept"
	}
	before := ""
	for _, s := range w.all() {
		line, have := kept[s.Name]
		if !have {
			line, before = "again: "+why(s, last, before), s.Name
		}
		if err := w.explainLine(w.t, s.Name, line); err != nil {
			return err
		}
	}
	return nil
}

// ofDay says how old the packages of a base are: it is kept however many security
// updates there are by now.
func ofDay(s rootfs.Stage, l store.Layer) string {
	made, err := l.Made()
	if err != nil || !s.Base {
		return ""
	}
	return ", packages of " + made.Format(time.DateOnly) + ": --refresh takes those of today"
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
