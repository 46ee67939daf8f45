package image

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"regexp"
	"strings"
)

// maxManifest is how much of an OVA's manifest is read, in bytes: a line of some
// 100 for each file.
const maxManifest = 1 << 20

// manifestLine is a line of an OVF package's manifest (DSP0243, 6.2).
var manifestLine = regexp.MustCompile(`^(SHA1|SHA256|SHA512) ?\(([^()]+)\) ?= ?([0-9A-Fa-f]{40,128})$`)

// sums are those of files, by name and kind of sum.
type sums map[string]map[string]string

func (s sums) add(file, kind, sum string) {
	if s[file] == nil {
		s[file] = map[string]string{}
	}
	s[file][kind] = strings.ToLower(sum)
}

// readManifest reads what a package says that its files' sums are.
func readManifest(text []byte) (sums, error) {
	wanted := sums{}
	for line := range bytes.Lines(text) {
		line := strings.TrimSpace(string(line))
		if line == "" {
			continue
		}
		m := manifestLine.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("its manifest has a line that is none: %.100q", line)
		}
		wanted.add(m[2], m[1], m[3])
	}
	return wanted, nil
}

// summing is a reader that notes the sums of what is read.
type summing struct {
	io.Reader
	kinds map[string]hash.Hash
}

func newSumming(r io.Reader) *summing {
	// SHA1 is what older packages have. The sums tell of damage, not of who made it.
	s := &summing{kinds: map[string]hash.Hash{"SHA1": sha1.New(), "SHA256": sha256.New(), "SHA512": sha512.New()}}
	s.Reader = io.TeeReader(r, io.MultiWriter(s.kinds["SHA1"], s.kinds["SHA256"], s.kinds["SHA512"]))
	return s
}

func (s *summing) into(found sums, file string) {
	for kind, sum := range s.kinds {
		found.add(file, kind, hex.EncodeToString(sum.Sum(nil)))
	}
}

// check compares the files that were found with what a manifest says of them. The
// disk has to be in it.
func (s sums) check(found sums, disk string) error {
	if s[disk] == nil {
		return fmt.Errorf("its manifest does not name its disk %.100q", disk)
	}
	for file, want := range s {
		for kind, sum := range want {
			switch got := found[file][kind]; {
			case got == "":
				return fmt.Errorf("%.100q, which its manifest names, is not in it", file)
			case got != sum:
				return fmt.Errorf("%.100q is not what its manifest says: its %s is %s, not %s: the file is damaged", file, kind, got, sum)
			}
		}
	}
	return nil
}
