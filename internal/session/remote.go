package session

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"meros/internal/ui"
)

// What a POSIX guest's own programs do faster than SFTP. The names go in with a
// NUL after each, below a folder that is the first argument; a guest's answers
// decide what is copied, and nothing else.
const (
	hashScript   = `cd "$1" && exec xargs -0 sha256sum`
	removeScript = `cd "$1" && exec xargs -0 rm -rf`
	prefixScript = `head -c "$2" <"$1" | sha256sum`
)

// fromHere makes a path of the guest one that no program takes for an option, and cd(1)
// does not look for in CDPATH.
func fromHere(file string) string {
	if path.IsAbs(file) {
		return file
	}
	return "./" + file
}

// nameList returns names as input of a script, each one that no option is.
func nameList(rels []string) io.Reader {
	var b bytes.Buffer
	for _, rel := range rels {
		b.WriteString("./" + rel + "\x00")
	}
	return &b
}

// run runs a script in the guest and returns the first bytes of its output.
func (c *Conn) run(ctx context.Context, in io.Reader, limit int, script string, args ...string) (string, error) {
	out, errs := &limited{left: limit}, &limited{left: 4 << 10}
	argv := append([]string{"sh", "-c", script, "meros"}, args...)
	err := Exec(ctx, c, &ui.Streams{In: in, Out: out, Err: errs}, argv, ExecOptions{})
	if _, ok := errors.AsType[*ExitError](err); ok {
		return out.String(), fmt.Errorf("the guest says: %s", oneLine(errs.String()))
	}
	return out.String(), err
}

// sum is a SHA-256.
type sum = [sha256.Size]byte

// hashes returns the SHA-256 of files below a folder of the guest, as far as it
// tells them.
func (c *Conn) hashes(ctx context.Context, dir string, rels []string) (map[string]sum, error) {
	if len(rels) == 0 {
		return nil, nil
	}
	room := 0
	for _, rel := range rels {
		room += 2*len(rel) + 80
	}
	out, err := c.run(ctx, nameList(rels), room, hashScript, fromHere(dir))
	if err != nil && out == "" {
		return nil, fmt.Errorf("hash files in %s: %w", c.fullID, err)
	}
	return parseHashes(out), nil
}

// parseHashes reads what sha256sum(1) prints: lines of a sum, two characters and
// a name, which begin with a backslash if the name has one that is escaped.
func parseHashes(out string) map[string]sum {
	sums := map[string]sum{}
	lines := bufio.NewScanner(strings.NewReader(out))
	lines.Buffer(nil, 64<<10)
	for lines.Scan() {
		line, escaped := strings.CutPrefix(lines.Text(), `\`)
		if len(line) < 2*sha256.Size+3 {
			continue
		}
		var s sum
		if n, err := hex.Decode(s[:], []byte(line[:2*sha256.Size])); err != nil || n != len(s) {
			continue
		}
		name := line[2*sha256.Size+2:]
		if escaped {
			name = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r").Replace(name)
		}
		sums[strings.TrimPrefix(name, "./")] = s
	}
	return sums
}

// samePrefix reports whether the first n bytes of a file of the guest are those
// of r.
func (c *Conn) samePrefix(ctx context.Context, file string, r io.Reader, n int64) bool {
	out, err := c.run(ctx, nil, 200, prefixScript, fromHere(file), strconv.FormatInt(n, 10))
	if err != nil {
		return false
	}
	ours, err := hashOf(r, n)
	return err == nil && strings.HasPrefix(out, hex.EncodeToString(ours[:]))
}

// hashOf returns the SHA-256 of the next n bytes, or of all for n < 0.
func hashOf(r io.Reader, n int64) (s sum, err error) {
	if n >= 0 {
		r = io.LimitReader(r, n)
	}
	h := sha256.New()
	_, err = io.Copy(h, r)
	return sum(h.Sum(nil)), err
}
