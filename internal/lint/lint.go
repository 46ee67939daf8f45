package lint

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"meros/internal/family"
	"meros/internal/layout"
)

// Finding is one thing that is better mended.
type Finding struct {
	File string `json:"file"` // relative to the recipe's folder
	Line int    `json:"line,omitempty"`
	What string `json:"what"`
	Why  string `json:"why"`
	Fix  string `json:"fix"`
}

// maxRead bounds how much of a file is looked at: what is larger is no text that
// a person wrote.
const maxRead = 1 << 20

// rule finds something by a line's text. Where when is set, the file has to have
// what it matches as well; where unless is, it has to lack that.
type rule struct {
	in     func(rel string) bool
	line   *regexp.Regexp
	when   *regexp.Regexp
	unless *regexp.Regexp
	what   string
	why    string
	fix    string
}

func script(rel string) bool {
	return strings.HasPrefix(rel, "hooks/") || strings.Contains(rel, "/hooks/")
}

func nftFile(rel string) bool { return strings.HasSuffix(rel, ".nft") }

func libvirtFile(rel string) bool { return strings.HasPrefix(rel, "libvirt/") }

func buildFile(rel string) bool { return strings.HasPrefix(rel, "build/") }

func included(rel string) bool { return strings.Contains(rel, "includes.chroot/") }

func either(tests ...func(string) bool) func(string) bool {
	return func(rel string) bool {
		return slices.ContainsFunc(tests, func(t func(string) bool) bool { return t(rel) })
	}
}

var rules = []rule{
	{
		in: script, line: regexp.MustCompile(`(echo|printf)\b.*:.*\|\s*(sudo\s+)?chpasswd|usermod\s+.*(-p|--password)\b|\|\s*passwd\b|useradd\s+.*(-p|--password)\b`),
		what: "sets a password that stands in the recipe",
		why:  "whoever has read the recipe can log in, at the console and wherever passwords are taken",
		fix:  "leave it out: sessions need no password, meros gives each target a key of its own",
	},
	{
		in: either(included, script), line: regexp.MustCompile(`(?i)^\s*(PasswordAuthentication|PermitEmptyPasswords)\s+yes`),
		what: "sshd takes passwords", why: "a neighbour on the network can guess them",
		fix: "set it to no: meros logs in with a key",
	},
	{
		in: either(script, nftFile), line: regexp.MustCompile(`flush\s+ruleset|ip6?tables\s+(-t\s+\w+\s+)?(-F|--flush)\b`),
		what: "takes away everybody's filter rules", why: "other families, docker and the host's own firewall lose theirs, and so their isolation",
		fix: "leave it out: meros replaces the family's own tables, and no others",
	},
	{
		in: script, line: regexp.MustCompile(`(curl|wget)\b[^|;]*\|\s*(sudo\s+)?(env\s+)?(ba|z|da|k)?sh\b`),
		what: "runs a program straight from the network", why: "whoever holds that server, or the way to it, owns the guest",
		fix: "download it to a file, compare a checksum kept in the recipe, then run it",
	},
	{
		in: script, line: regexp.MustCompile(`\b(curl|wget)\b.*\b(https?|ftp)://`), unless: regexp.MustCompile(`sha(256|512)sum|gpgv?\s|minisign|signify`),
		what: "downloads without a check", why: "the same build may bring something else tomorrow, and nobody would see it",
		fix: "compare with a checksum kept in the recipe: sha256sum -c",
	},
	{
		in: script, line: regexp.MustCompile(`\bgit\s+clone\b`), unless: regexp.MustCompile(`git\b.*\b(checkout|reset|verify-(tag|commit))\b`),
		what: "clones whatever is newest", why: "the same build may bring something else tomorrow, and nobody would see it",
		fix: "check out a commit by its full hash",
	},
	{
		in: included, line: regexp.MustCompile(`(?i)NOPASSWD:\s*ALL`),
		what: "any program of the user becomes root", why: "what takes over the user's session has the whole guest at once",
		fix: "name the commands that are needed",
	},
	{
		in: buildFile, line: regexp.MustCompile(`\burl\s*=\s*["'][^"']*\.deb["']`), when: regexp.MustCompile(`\b(distro\s*=\s*["']alpine|rootfs\s*=\s*["']no)["']`),
		what: "takes a kernel out of a .deb, without its modules", why: "only a rootfs of Debian's kind gets them: where drivers are modules, the guest finds no root file system, or has no network",
		fix: "name a kernel with all that the guest needs built in",
	},
}

// Family returns what is unwise in a recipe, by file and line. others are further
// families of the same root, whose networks are compared.
func Family(f *family.Family, others []*family.Family) ([]Finding, error) {
	l := &linter{family: f}
	err := filepath.WalkDir(f.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(f.Dir, path)
		if err != nil {
			return err
		}
		return l.file(path, filepath.ToSlash(rel), d)
	})
	if err != nil {
		return nil, err
	}
	l.policy()
	l.gateways()
	l.hops()
	l.subnets(others)
	l.colours()
	slices.SortStableFunc(l.found, func(a, b Finding) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		return a.Line - b.Line
	})
	return l.found, nil
}

type linter struct {
	family *family.Family
	found  []Finding
}

func (l *linter) add(file string, line int, what, why, fix string) {
	l.found = append(l.found, Finding{file, line, what, why, fix})
}

func (l *linter) file(path, rel string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil || info.Size() > maxRead {
		return err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if bytes.Contains(content, []byte("PRIVATE KEY-----")) {
		l.add(rel, 0, "a private key in the recipe", fmt.Sprintf("everybody who has the recipe has it (its mode is %#o)", info.Mode().Perm()),
			"make it in a hook at build time, in each image a new one")
	}
	if bytes.IndexByte(content, 0) >= 0 {
		return nil // no text
	}
	for _, r := range rules {
		if !r.in(rel) || r.when != nil && !r.when.Match(content) || r.unless != nil && r.unless.Match(content) {
			continue
		}
		for i, line := range strings.Split(string(content), "\n") {
			if !comment(line) && r.line.MatchString(line) {
				l.add(rel, i+1, r.what, r.why, r.fix)
			}
		}
	}
	if libvirtFile(rel) {
		l.libvirt(rel, content)
	}
	if nftFile(rel) || script(rel) {
		l.acceptBeforeDNAT(rel, string(content))
	}
	return nil
}

// Keys returns which of a family's keys others than their owner may read.
func Keys(paths layout.Paths, f *family.Family) []Finding {
	l := &linter{family: f}
	for _, t := range f.Targets {
		for _, key := range []string{paths.ClientKey(t.FullID()), paths.HostKey(t.FullID())} {
			info, err := os.Stat(key)
			if err != nil || info.Mode().Perm()&0o077 == 0 {
				continue
			}
			l.add(key, 0, fmt.Sprintf("others than its owner may read it (its mode is %#o)", info.Mode().Perm()),
				"whoever has it can log in to "+t.FullID()+", or pass for it", "chmod 600 "+key+"; if anybody may have read it, delete it and build again")
		}
	}
	return l.found
}

func comment(line string) bool {
	line = strings.TrimSpace(line)
	return strings.HasPrefix(line, "#") || strings.HasPrefix(line, "<!--")
}

var (
	chainStart = regexp.MustCompile(`\bchain\s+\S+\s*\{`)
	bareAccept = regexp.MustCompile(`^\s*(counter\s+)?accept\s*;?\s*$`)
	redirects  = regexp.MustCompile(`\b(dnat|redirect|masquerade|snat)\b`)
)

// acceptBeforeDNAT finds address translation that an accept before it keeps from
// ever being done.
func (l *linter) acceptBeforeDNAT(rel, text string) {
	accepted := 0
	for i, line := range strings.Split(text, "\n") {
		switch {
		case chainStart.MatchString(line), strings.TrimSpace(line) == "}":
			accepted = 0
		case bareAccept.MatchString(line):
			accepted = i + 1
		case accepted > 0 && !comment(line) && redirects.MatchString(line):
			l.add(rel, i+1, fmt.Sprintf("is never reached: line %d accepts everything before it", accepted),
				"traffic that was to be led elsewhere goes straight on", "put the accept behind it, or narrow it")
			accepted = 0
		}
	}
}
