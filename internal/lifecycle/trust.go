package lifecycle

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"meros/internal/family"
	"meros/internal/hint"
)

// flushes matches the command of nft(8) that takes everybody's rules away; a
// backslash goes on in the next line.
var flushes = regexp.MustCompile(`flush[\s\\]+ruleset`)

// maxHookRead bounds how much of a hook is looked at. What is longer is a compiled
// program; it may as well call nft by any other name.
const maxHookRead = 16 << 20

// refuseFlush fails for hooks that contain `flush ruleset` outside a comment. It
// finds the careless, not the malicious: a hook has the caller's rights. What
// one does to the family's own rules is seen by checkFilter.
func refuseFlush(f *family.Family, phases ...family.HookPhase) error {
	var faults []error
	for _, phase := range phases {
		for _, hook := range f.Hooks[phase] {
			content, err := os.ReadFile(hook)
			if err != nil {
				faults = append(faults, fmt.Errorf("%s hook %s: %w", phase, filepath.Base(hook), err))
				continue
			}
			if flushes.Match(withoutComments(content[:min(len(content), maxHookRead)])) {
				faults = append(faults, hint.Add(
					fmt.Errorf("%s hook %s contains `flush ruleset`, which takes away the rules of every family and of the host", phase, filepath.Base(hook)),
					"leave it out (the family's own rules belong in netfilter/), or give --trust-hooks"))
			}
		}
	}
	return errors.Join(faults...)
}

// withoutComments drops the lines of a text that begin with #.
func withoutComments(text []byte) []byte {
	var kept []byte
	for line := range bytes.Lines(text) {
		if !bytes.HasPrefix(bytes.TrimLeft(line, " \t"), []byte("#")) {
			kept = append(kept, line...)
		}
	}
	return kept
}
