package family

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"meros/internal/hint"
)

// ErrNotFound is wrapped by the errors that name a family or target there is
// none of.
var ErrNotFound = errors.New("no such family or target")

// ErrBadName is wrapped by the errors about a name that no family or target can
// have.
var ErrBadName = errors.New("bad name")

// Fault is one thing that is wrong with a recipe.
type Fault struct {
	File  string `json:"file"`  // relative to the root: conf/target/demo/build/web.xml
	Line  int    `json:"line"`  // from 1; 0 when the fault is in no line
	Where string `json:"where"` // element and attribute, such as "size: free_space_mb"; may be empty
	Text  string `json:"text"`

	advice string
}

// String is file:line: where: text, less what is not known.
func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(printable(f.File))
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d", f.Line)
	}
	if f.Where != "" {
		b.WriteString(": " + f.Where)
	}
	return b.String() + ": " + f.Text
}

// Faults are all that is wrong with a recipe, by file and line. Never empty when
// it is an error.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.String()
	}
	return strings.Join(lines, "\n")
}

// maxFaults bounds what is said of one file, so that a file of another kind
// altogether does not bury the faults of the rest.
const maxFaults = 50

// report collects the faults of a recipe.
type report struct{ faults Faults }

// file returns the place for the faults of one file or folder.
func (r *report) file(path string) *file { return &file{report: r, path: path} }

// err is nil without faults, else all of them, sorted, with their advice.
func (r *report) err() error {
	if len(r.faults) == 0 {
		return nil
	}
	slices.SortStableFunc(r.faults, func(a, b Fault) int {
		if byFile := strings.Compare(a.File, b.File); byFile != 0 {
			return byFile
		}
		return a.Line - b.Line
	})
	var err error = r.faults
	for _, f := range slices.Backward(r.faults) { // the last added is shown first
		if f.advice != "" {
			err = hint.Add(err, "%s", f.advice)
		}
	}
	return err
}

// file is one file or folder of a recipe as its faults name it.
type file struct {
	report *report
	path   string
	count  int
}

// fault notes a fault; line 0 means the file as a whole.
func (f *file) fault(line int, where, format string, args ...any) {
	f.add(Fault{File: f.path, Line: line, Where: where, Text: fmt.Sprintf(format, args...)})
}

// advise notes a fault of the file as a whole, with what to do about it.
func (f *file) advise(advice, format string, args ...any) {
	f.add(Fault{File: f.path, Text: fmt.Sprintf(format, args...), advice: advice})
}

func (f *file) add(fault Fault) {
	f.count++
	switch {
	case f.count == maxFaults:
		fault.Where, fault.Text = "", "more faults follow in this file: mend those above first"
	case f.count > maxFaults:
		return
	}
	f.report.faults = append(f.report.faults, fault)
}

// nameError is a name that has something wrong with it, as kind says.
type nameError struct {
	kind error
	text string
}

func (e *nameError) Error() string { return e.text }
func (e *nameError) Unwrap() error { return e.kind }

func badName(err error) error { return &nameError{ErrBadName, err.Error()} }

// notFound says that there is no such thing, which is nearest, and what there is.
func notFound(what, name string, there []string) error {
	text := fmt.Sprintf("there is no %s %s", what, name)
	if near, ok := nearest(name, there); ok {
		text += "; the nearest name is " + near
	}
	if len(there) == 0 {
		return &nameError{ErrNotFound, text + "; there are none at all"}
	}
	return &nameError{ErrNotFound, text + "; there are: " + list(there)}
}
