package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"

	"meros/internal/hint"
)

// Conf is kernel.conf: which source, and which configuration.
type Conf struct {
	Version   string   // such as 6.1.159
	Git       string   // repository with the signed tag
	Tag       string   // of that version; never a branch
	Commit    string   // what the tag must point to; "" if only its signature counts
	Signers   []string // fingerprints of the keys that may sign the tag
	Tarball   string   // URL of the same version
	SHA256    string   // of that tarball
	Fragments []string
}

var (
	versionForm = regexp.MustCompile(`^[0-9]+\.[0-9]+(\.[0-9]+)?$`)
	shaForm     = regexp.MustCompile(`^[0-9a-f]{64}$`)
	commitForm  = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)
	signerForm  = regexp.MustCompile(`^[0-9A-F]{40}$`)
	tagForm     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/+-]*$`)
	urlForm     = regexp.MustCompile(`^(https?|git|ssh|file)://[^\s]+$`)
)

// ReadConf reads kernel.conf: lines "name = value", # begins a comment.
func ReadConf(file string) (Conf, error) {
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return Conf{}, hint.Add(fmt.Errorf("no %s: it says which kernel to build", file), "copy conf/kernel/ from the source of meros")
	}
	if err != nil {
		return Conf{}, err
	}
	return parseConf(file, string(content))
}

func parseConf(file, content string) (Conf, error) {
	var c Conf
	var faults []error
	fields := c.fields()
	for i, line := range strings.Split(content, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		take := fields[name]
		switch {
		case !ok:
			faults = append(faults, fmt.Errorf("%s:%d: want name = value, got %q", file, i+1, line))
		case take == nil:
			faults = append(faults, fmt.Errorf("%s:%d: unknown name %q", file, i+1, name))
		case !take(value):
			faults = append(faults, fmt.Errorf("%s:%d: %s: %q has not its form", file, i+1, name, value))
		}
	}
	if len(faults) == 0 && (c.Version == "" || len(c.Fragments) == 0) {
		faults = append(faults, fmt.Errorf("%s: version and fragments have to be there", file))
	}
	return c, errors.Join(faults...)
}

// fields maps the names of kernel.conf to what takes their values.
func (c *Conf) fields() map[string]func(string) bool {
	one := func(to *string, form *regexp.Regexp) func(string) bool {
		return func(s string) bool { *to = s; return form.MatchString(s) }
	}
	list := func(to *[]string, form *regexp.Regexp) func(string) bool {
		return func(s string) bool {
			*to = strings.Fields(s)
			return !slices.ContainsFunc(*to, func(w string) bool { return !form.MatchString(w) })
		}
	}
	return map[string]func(string) bool{
		"version": one(&c.Version, versionForm), "git": one(&c.Git, urlForm), "tag": one(&c.Tag, tagForm),
		"commit": one(&c.Commit, commitForm), "tarball": one(&c.Tarball, urlForm), "sha256": one(&c.SHA256, shaForm),
		"signers": list(&c.Signers, signerForm), "fragments": list(&c.Fragments, fragmentName),
	}
}
