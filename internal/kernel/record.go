package kernel

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"meros/internal/layout"
)

// Record says what a built kernel was made of. It lies beside the kernel.
type Record struct {
	Key     string    `json:"key"`     // of source and configuration
	Config  string    `json:"config"`  // of the configuration alone
	Release string    `json:"release"` // what uname -r prints
	Arch    string    `json:"arch"`
	Source  string    `json:"source"`           // where it came from, for people
	Asked   string    `json:"asked,omitempty"`  // --source, as far as it holds on any day
	Pinned  string    `json:"pinned,omitempty"` // version that kernel.conf had, where it said the source
	Tag     string    `json:"tag,omitempty"`    // --tag, --commit and --sha256, which verify it
	Commit  string    `json:"commit,omitempty"`
	Sum     string    `json:"source_sha256,omitempty"`
	With    []string  `json:"with,omitempty"` // fragments beside those of kernel.conf
	SHA256  string    `json:"sha256"`         // of the kernel's file
	Objects int       `json:"objects"`        // object files it is made of
	Symbols int       `json:"symbols"`        // that are built in
	Seconds float64   `json:"seconds"`        // the last call of make took
	Built   time.Time `json:"built"`
}

const recordSuffix = ".json"

// request asks for the same source again.
func (r Record) request() Request {
	return Request{Source: r.Asked, Tag: r.Tag, Commit: r.Commit, SHA256: r.Sum}
}

// name is the release with the fragments that were added: a kernel with another
// choice of them does not take its place.
func (r Record) name() string {
	with := slices.Sorted(slices.Values(r.With))
	return strings.Join(append([]string{r.Release}, slices.Compact(with)...), "+")
}

// current returns the record of the kernel that targets of an architecture get and
// the path of its file. The error wraps fs.ErrNotExist when none was built.
func current(p layout.Paths, a arch) (Record, string, error) {
	name, err := os.Readlink(p.CurrentKernel(a.target))
	if err != nil {
		return Record{}, "", err
	}
	file := filepath.Join(p.Images(), filepath.Base(name))
	r, err := readRecord(file)
	if r.Arch != "" && r.Arch != a.name { // bzImage was once the link of all
		err = fmt.Errorf("%s is for %s: %w", file, r.Arch, fs.ErrNotExist)
	}
	return r, file, err
}

// errOtherFile is returned with the record of a kernel whose file is not the one
// that was recorded: a build that replaced it was broken off.
var errOtherFile = errors.New("the kernel's file is not the one that its record is of")

func readRecord(file string) (Record, error) {
	var r Record
	content, err := os.ReadFile(file + recordSuffix)
	if err == nil {
		err = json.Unmarshal(content, &r)
	}
	if err != nil {
		return r, err
	}
	image, err := os.ReadFile(file)
	if err == nil && sumOfBytes(image) != r.SHA256 {
		err = errOtherFile
	}
	return r, err
}

func sumOfBytes(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// place puts a built kernel under its name and makes it the current one: the
// kernel first, its record last, then the link. An old record stays until then: it
// says what the kernel is to be made of, and vouches by its sum for no new file.
func place(p layout.Paths, a arch, image, config []byte, r Record) error {
	file := p.BuiltKernel(a.target, r.name())
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name    string
		content []byte
	}{{file, image}, {file + ".config", config}, {file + recordSuffix, append(content, '\n')}} {
		if err := p.WriteFile(f.name, f.content, 0o644); err != nil {
			return fmt.Errorf("place the kernel: %w", err)
		}
	}
	return point(p, a, file)
}

// point makes a built kernel the current one of its architecture.
func point(p layout.Paths, a arch, file string) error {
	next := p.CurrentKernel(a.target) + ".partial"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Base(file), next); err != nil {
		return err
	}
	return errors.Join(p.Owner.Give(next), os.Rename(next, p.CurrentKernel(a.target)))
}

// withKey returns the file of a built kernel of that key, "" if there is none.
func withKey(p layout.Paths, a arch, key string) (Record, string) {
	records, _ := filepath.Glob(p.BuiltKernel(a.target, "*") + recordSuffix)
	for _, path := range records {
		file := strings.TrimSuffix(path, recordSuffix)
		if r, err := readRecord(file); err == nil && r.Key == key {
			return r, file
		}
	}
	return Record{}, ""
}
