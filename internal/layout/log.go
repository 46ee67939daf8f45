package layout

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// maxLog is the size in bytes at which a log that grows is set aside; one older
// part is kept.
const maxLog = 1 << 20

var logName = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,127}$`)

// CheckLog reports why name cannot be a log's.
func CheckLog(name string) error {
	if !logName.MatchString(name) {
		return fmt.Errorf("%q is no log's name: it may have lower-case letters, digits, _ . and -", name)
	}
	return nil
}

// AppendLog adds a line to a log that grows.
func (p Paths) AppendLog(name, line string) error {
	path := p.Log(name)
	if err := p.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line)
	return errors.Join(err, f.Close(), p.Owner.Give(path))
}

// SetLogAside makes room for a fresh log: the one of that name becomes NAME.1, that
// one NAME.2 and so on, of which so many are kept. Who writes one of them goes on in it.
func (p Paths) SetLogAside(name string, kept int) error {
	earlier := func(n int) string {
		if n == 0 {
			return p.Log(name)
		}
		return p.Log(name + "." + strconv.Itoa(n))
	}
	for n := kept; n > 0; n-- {
		if err := os.Rename(earlier(n-1), earlier(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Logs returns the names of all logs.
func (p Paths) Logs() ([]string, error) {
	files, err := filepath.Glob(p.Log("*"))
	for i, file := range files {
		files[i] = strings.TrimSuffix(filepath.Base(file), ".log")
	}
	return files, err
}
