package mirror

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// staleTime is how long after its last download a folder of fresh files belongs
// to no living build.
const staleTime = 6 * time.Hour

// Sweep removes what killed builds left in dir, and returns how many bytes dir
// holds.
func Sweep(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var total int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue
		}
		if strings.HasPrefix(e.Name(), freshPrefix) && time.Since(info.ModTime()) > staleTime {
			_ = os.RemoveAll(filepath.Join(dir, e.Name()))
			continue
		}
		total += info.Size()
	}
	return total, nil
}

// Prune removes what no build has used for an age, and returns how many files those
// were. No build may run.
func Prune(dir string, age time.Duration) (int, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	removed, errs := 0, []error{err}
	for _, e := range entries {
		file := filepath.Join(dir, e.Name())
		var st unix.Stat_t
		if e.IsDir() || unix.Stat(file, &st) != nil || time.Since(time.Unix(st.Atim.Unix())) < age {
			continue
		}
		if err := os.Remove(file); err != nil {
			errs = append(errs, err)
			continue
		}
		removed++
	}
	return removed, errors.Join(errs...)
}
