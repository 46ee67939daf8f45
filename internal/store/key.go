package store

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"golang.org/x/sys/unix"
)

// Key names a layer: the hash, in hexadecimal, of all that its stage reads.
type Key string

// Piece is something that a stage reads.
type Piece struct {
	Label  string   `json:"label"`
	Values []string `json:"values,omitempty"`
}

// KeyBuilder collects what a stage reads.
type KeyBuilder struct{ pieces []Piece }

// NewKey starts the key of a stage.
func NewKey(stage string) *KeyBuilder { return (&KeyBuilder{}).Add("stage", stage) }

// Add adds values under a label.
func (k *KeyBuilder) Add(label string, values ...string) *KeyBuilder {
	k.pieces = append(k.pieces, Piece{label, values})
	return k
}

// Pieces are what was added so far.
func (k *KeyBuilder) Pieces() []Piece { return k.pieces }

// AddTree adds a file or a folder with all below it: names, kinds, modes,
// times, link targets, contents and Attributes; owners are not read. A path that is not
// there adds its absence.
func (k *KeyBuilder) AddTree(label, path string) error {
	entries, err := hashTree(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	k.Add(label, entries...)
	return nil
}

// Sum is the key of all that was added. Lengths and counts are hashed too, so
// that no two lists of pieces have one key.
func (k *KeyBuilder) Sum() Key {
	h := sha256.New()
	for _, p := range k.pieces {
		fmt.Fprintf(h, "%d:%s %d\n", len(p.Label), p.Label, len(p.Values))
		for _, v := range p.Values {
			fmt.Fprintf(h, "%d:%s\n", len(v), v)
		}
	}
	return Key(hex.EncodeToString(h.Sum(nil)[:16]))
}

func hashTree(root string) ([]string, error) {
	var entries []string
	links := map[[2]uint64]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if path == root && os.IsNotExist(err) {
				return filepath.SkipAll
			}
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		line, err := hashEntry(path, rel, links)
		entries = append(entries, line)
		return err
	})
	sort.Strings(entries)
	return entries, err
}

func hashEntry(path, rel string, links map[[2]uint64]string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	line := fmt.Sprintf("%q %o %d", rel, st.Mode, st.Mtim.Nano())
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		// A folder's own time changes with every file that an editor saves in it.
		return fmt.Sprintf("%q %o", rel, st.Mode), nil
	case unix.S_IFLNK:
		to, err := os.Readlink(path)
		return line + " " + to, err
	}
	if st.Nlink > 1 {
		id := [2]uint64{st.Dev, st.Ino}
		if first, ok := links[id]; ok {
			return line + " hard link to " + first, nil
		}
		links[id] = rel
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return withAttributes(fmt.Sprintf("%s %d", line, st.Rdev), path)
	}
	sum, err := hashFile(path)
	if err != nil {
		return "", err
	}
	return withAttributes(line+" "+sum, path)
}

// withAttributes adds a file's attributes: setcap(8) changes no time.
func withAttributes(line, path string) (string, error) {
	attributes, err := Attributes(path)
	for _, a := range attributes {
		line += fmt.Sprintf(" %s=%x", a.Name, a.Value)
	}
	return line, err
}

// AddFile adds one file's permissions and content, whenever it was written.
func (k *KeyBuilder) AddFile(label, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	sum, err := hashFile(path)
	k.Add(label, fmt.Sprintf("%q %s %s", filepath.Base(path), info.Mode(), sum))
	return err
}

// AddProgram adds a large program of the host, whose content is taken to be the same
// as long as its place, size and time are.
func (k *KeyBuilder) AddProgram(label, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	k.Add(label, fmt.Sprintf("%q %s %d %d", filepath.Base(path), path, info.Size(), info.ModTime().UnixNano()))
	return nil
}
