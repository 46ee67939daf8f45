package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"

	"meros/internal/hint"
)

// Ask is what a fragment wants of one kernel symbol.
type Ask struct {
	Symbol   string // CONFIG_…
	Value    string // as in .config; "n": off
	Optional bool   // taken where the compiler and the version have it
	File     string
	Line     int
}

func (a Ask) at() string { return fmt.Sprintf("%s:%d", a.File, a.Line) }

// text is the ask as a line of .config.
func (a Ask) text() string {
	if a.Value == "n" {
		return "# " + a.Symbol + " is not set"
	}
	return a.Symbol + "=" + a.Value
}

var (
	setForm = regexp.MustCompile(`^(\??)(CONFIG_[A-Za-z0-9_]+)=(y|n|-?[0-9]+|0x[0-9a-fA-F]+|"[^"]*")$`)
	offForm = regexp.MustCompile(`^#\s*(CONFIG_[A-Za-z0-9_]+) is not set$`)
)

// parseFragment reads one file. Comments are lines that begin with # and are not
// of the form "# CONFIG_X is not set".
func parseFragment(file, content string) ([]Ask, error) {
	var asks []Ask
	var faults []error
	for i, line := range strings.Split(content, "\n") {
		line = strings.TrimSpace(line)
		a := Ask{File: file, Line: i + 1}
		set, off := setForm.FindStringSubmatch(line), offForm.FindStringSubmatch(line)
		switch {
		case set != nil:
			a.Optional, a.Symbol, a.Value = set[1] != "", set[2], set[3]
		case off != nil:
			a.Symbol, a.Value = off[1], "n"
		case line == "" || strings.HasPrefix(line, "#"):
			continue
		default:
			faults = append(faults, badLine(a, line))
			continue
		}
		asks = append(asks, a)
	}
	return asks, errors.Join(faults...)
}

func badLine(a Ask, line string) error {
	err := fmt.Errorf("%s: not a line of a fragment: %q", a.at(), line)
	if strings.HasSuffix(line, "=m") {
		return hint.Add(err, "the kernel has no modules: write =y")
	}
	return hint.Add(err, "write CONFIG_NAME=y, CONFIG_NAME=\"text\", CONFIG_NAME=number, or # CONFIG_NAME is not set")
}

// Asks reads the named fragments of dir for an architecture, NAME.config and
// then NAME.ARCH.config, and returns what is asked of each symbol: the last word
// counts. The order is that of the first word on each.
func Asks(dir, arch string, names []string) ([]Ask, error) {
	var all []Ask
	at := map[string]int{}
	var faults []error
	for _, name := range names {
		asks, err := readFragment(dir, arch, name)
		faults = append(faults, err)
		for _, a := range asks {
			if i, ok := at[a.Symbol]; ok {
				all[i] = a
				continue
			}
			at[a.Symbol] = len(all)
			all = append(all, a)
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return all, nil
}

var fragmentName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)

func readFragment(dir, arch, name string) ([]Ask, error) {
	if !fragmentName.MatchString(name) {
		return nil, noName(name)
	}
	var asks []Ask
	for _, file := range []string{name + ".config", name + "." + arch + ".config"} {
		path := filepath.Join(dir, file)
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && file != name+".config" {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, noFragment(dir, name)
		}
		if err != nil {
			return nil, err
		}
		more, err := parseFragment(path, string(content))
		if err != nil {
			return nil, err
		}
		asks = append(asks, more...)
	}
	return asks, nil
}

func noName(s string) error { return fmt.Errorf("%q is no fragment's name", s) }

func noFragment(dir, name string) error {
	return hint.Add(fmt.Errorf("no fragment %s: %s is missing", name, filepath.Join(dir, name+".config")),
		"there are: %s", strings.Join(fragmentsOf(dir), ", "))
}

// Known reports a name that dir has no fragment of.
func Known(dir string, names []string) error {
	have := fragmentsOf(dir)
	for _, name := range names {
		if !slices.Contains(have, name) {
			return noFragment(dir, name)
		}
	}
	return nil
}

// fragmentsOf lists the names of the fragments in dir.
func fragmentsOf(dir string) []string {
	files, _ := filepath.Glob(filepath.Join(dir, "*.config"))
	var names []string
	for _, f := range files {
		if name := strings.TrimSuffix(filepath.Base(f), ".config"); !strings.Contains(name, ".") {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// Seed is the file that make allnoconfig takes its yeses from
// (KCONFIG_ALLCONFIG; Documentation/kbuild/kconfig.rst).
func Seed(asks []Ask) string {
	var b strings.Builder
	for _, a := range asks {
		b.WriteString(a.text() + "\n")
	}
	return b.String()
}
