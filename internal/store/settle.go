package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A layer in place is whole for every process of this boot. Whether it is so after
// a power cut depends on what had reached the disk by then, in whatever order. So
// it carries the mark of the boot in which it was made until it is settled: all on
// the disk. One with the mark of another boot is not whole.

const markFile = "unsettled"

// bootIDFile differs from boot to boot (random(4)).
const bootIDFile = "/proc/sys/kernel/random/boot_id"

func thisBoot() (string, error) {
	content, err := os.ReadFile(bootIDFile)
	return strings.TrimSpace(string(content)), err
}

// mark marks the folder of a layer as not settled. The mark is on the disk before the
// layer gets its name: a file system without a journal may write the two in any order.
func mark(dir string) error {
	boot, err := thisBoot()
	if err != nil {
		return syncAll(dir) // then it has to be settled now
	}
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer folder.Close()
	file, err := os.Create(filepath.Join(dir, markFile))
	if err != nil {
		return err
	}
	_, err = file.WriteString(boot)
	return errors.Join(err, file.Sync(), file.Close(), folder.Sync())
}

// stale reports whether a layer was made in another boot and never settled. A
// mark that a power cut emptied is of another boot too.
func (l Layer) stale() bool {
	content, err := os.ReadFile(filepath.Join(l.dir, markFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	boot, bootErr := thisBoot()
	return err != nil || bootErr != nil || string(content) != boot
}

// Settle makes sure that all layers made since the last boot outlive a power cut.
// It waits for the disk.
func (s Store) Settle() error {
	keys, err := s.Keys()
	if err != nil {
		return err
	}
	var marks []string
	for _, key := range keys {
		l := Layer{Key: key, dir: filepath.Join(s.layers(), string(key))}
		file := filepath.Join(l.dir, markFile)
		if _, err := os.Lstat(file); err == nil && !l.stale() {
			marks = append(marks, file)
		}
	}
	if len(marks) == 0 {
		return nil
	}
	if err := syncAll(s.layers()); err != nil {
		return err
	}
	var errs []error
	for _, file := range marks {
		if err := os.Remove(file); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// syncAll writes all that the file system of dir holds in memory to the disk.
func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("write %s to the disk: %w", dir, err)
	}
	return nil
}
