package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/mirror"
	"meros/internal/proc"
)

// maxTold and maxNear bound what of a package manager's words is repeated, and
// how many names are suggested for one that is not known.
const maxTold, maxNear = 6, 3

// lastError picks the lines of a tool's output that say why it failed: the
// last of them is often only that it did.
func lastError(err error) error {
	exit, ok := errors.AsType[*proc.ExitError](err)
	if !ok {
		return err
	}
	return withLines(exit, pick(exit.Stderr, func(line string) bool {
		return strings.HasPrefix(line, "E: ") || strings.HasPrefix(line, "Err:") || strings.HasPrefix(line, "dpkg: error") || strings.Contains(line, "No space left") || strings.Contains(line, "NO_PUBKEY")
	}))
}

func withLines(exit *proc.ExitError, told []string) error {
	if len(told) == 0 {
		return exit
	}
	told = told[:min(len(told), maxTold)]
	return fmt.Errorf("%w (%s)", &proc.ExitError{Argv: exit.Argv, Code: exit.Code, Signal: exit.Signal}, strings.Join(told, "; "))
}

// pick returns the trimmed lines of a text that tell something.
func pick(text string, tells func(string) bool) []string {
	var told []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(mirror.Shown(line)); tells(line) {
			told = append(told, line)
		}
	}
	return told
}

// bootstrapCauses are what may be behind the words of a bootstrap tool, the surest
// first: what apt says of any failure comes last.
var bootstrapCauses = []struct{ words, advice string }{
	{`NO_PUBKEY|not signed|unknown key|BADSIG|EXPKEYSIG|REVKEYSIG|Invalid Release signature|Keyring-based check`, "the archive is not signed by a key of KEYRING (package PACKAGE): bring that up to date, or take another mirror"},
	{`not valid anymore|is expired|not valid yet`, "the mirror serves an old index, or this host's clock is wrong: check `date`, or take another mirror"},
	{`Hash Sum mismatch|unexpected size|corrupt`, "what the mirror sent is not what its signed index says: try again, or take another mirror"},
	{`404|does not have a Release file|No such script`, "the mirror has no suite \"SUITE\": check release= and mirror= in the build XML"},
	{`resolve|Could not connect|retrieving|Failed to fetch`, "the mirror cannot be reached: check the network, or name another with mirror= in the build XML"},
}

func bootstrapHint(err error, b Bootstrap) error {
	if errors.Is(err, proc.ErrNotFound) {
		return hint.Add(err, "install %s, or run ./dist-conf.sh", b.Tool)
	}
	for _, c := range bootstrapCauses {
		if regexp.MustCompile(c.words).MatchString(err.Error()) {
			words := strings.NewReplacer("KEYRING", b.distro().keyring, "PACKAGE", b.distro().keyringPackage, "SUITE", b.Suite)
			return hint.Add(err, "%s", words.Replace(c.advice))
		}
	}
	return err
}

// damaged are the words of apt, apk and meros itself for a file that is not what a signed
// index says. A signature of an unknown key is none of them: the key is what is wrong.
var damaged = regexp.MustCompile(`Hash Sum mismatch|unexpected size|corrupt|BAD archive|BAD signature|unexpected end of file|integrity error|its sha256 is`)

// Damaged reports whether a stage failed because of a file that it had downloaded.
func Damaged(err error) bool { return damaged.MatchString(err.Error()) }

// aptUnmet begins apt-get's list of packages that cannot be together.
const aptUnmet = "The following packages have unmet dependencies:"

// aptError says why apt-get failed by what it printed: which packages exclude
// each other stands on its standard output, and that they do on the other.
func aptError(err error, printed string) error {
	exit, ok := errors.AsType[*proc.ExitError](err)
	if !ok {
		return err
	}
	_, unmet, conflict := strings.Cut(printed, aptUnmet)
	if !conflict {
		return lastError(err)
	}
	return hint.Add(withLines(exit, append([]string{"packages that cannot be together"}, pick(unmet, func(line string) bool {
		return strings.Contains(line, ": ") && !strings.HasPrefix(line, "E: ")
	})...)), "take one of them off <packages> and package-lists/, or take another release")
}

// Names that apt-get and apk do not know, in their words.
var (
	aptUnknown = regexp.MustCompile(`Unable to locate package ([a-z0-9][a-z0-9+.-]*)|Package '([a-z0-9][a-z0-9+.-]*)' has no installation candidate`)
	apkUnknown = regexp.MustCompile(`([A-Za-z0-9][A-Za-z0-9_+.-]*) \(no such package\)`)
)

// suggest adds to an error about packages that do not exist which of those that
// do have the nearest names. list prints them, a line each.
func (c *chroot) suggest(ctx context.Context, err error, unknown *regexp.Regexp, list ...string) error {
	found := unknown.FindAllStringSubmatch(err.Error(), maxTold)
	if len(found) == 0 {
		return err
	}
	var known bytes.Buffer
	if c.runQuiet(ctx, &known, list...) != nil {
		known.Reset() // that names can be suggested is not needed
	}
	names := strings.Fields(known.String())
	for _, groups := range found {
		name := strings.Join(groups[1:], "")
		if near := family.Nearest(name, names, maxNear); len(near) > 0 {
			err = hint.Add(err, "%s: the nearest names are %s", name, strings.Join(near, ", "))
		}
	}
	return hint.Add(err, "check the names under <packages> in the build XML and in package-lists/ against the release's packages")
}

// runQuiet runs a program of the chroot whose output goes to out alone.
func (c *chroot) runQuiet(ctx context.Context, out io.Writer, argv ...string) error {
	return c.r.Run(ctx, proc.Cmd{Argv: append([]string{"chroot", c.root}, argv...), Env: toolEnv(), Dir: "/", Stdout: out, Stderr: io.Discard})
}

// apkError picks the lines of apk's output that say why it failed.
func apkError(err error) error {
	exit, ok := errors.AsType[*proc.ExitError](err)
	if !ok {
		return err
	}
	return withLines(exit, pick(exit.Stderr, func(line string) bool {
		for _, words := range []string{"(no such package)", "required by:", "conflicts:", "breaks:", "masked in:"} {
			if strings.Contains(line, words) {
				return true
			}
		}
		return strings.HasPrefix(line, "ERROR:") || strings.HasPrefix(line, "WARNING:")
	}))
}

func apkHint(err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "UNTRUSTED"), strings.Contains(text, "BAD signature"):
		return hint.Add(err, "put the repository's public key under includes.chroot/etc/apk/keys/ of the recipe, or take another mirror")
	case strings.Contains(text, "conflicts:"), strings.Contains(text, "breaks:"):
		return hint.Add(err, "take one of them off <packages> and package-lists/, or take another release")
	}
	return err
}
