package layout

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
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

// Logs returns the names of all logs.
func (p Paths) Logs() ([]string, error) {
	files, err := filepath.Glob(p.Log("*"))
	for i, file := range files {
		files[i] = strings.TrimSuffix(filepath.Base(file), ".log")
	}
	return files, err
}
