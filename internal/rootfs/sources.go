package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"strings"

	"meros/internal/family"
	"meros/internal/proc"
)

// debianKeyring holds the archive's keys, on the host and, at the same path, in
// every Debian chroot (package debian-archive-keyring).
const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// rolling suites have neither an updates nor a security suite.
var rolling = map[string]bool{"sid": true, "unstable": true, "experimental": true}

// mirrors are the addresses of a Debian archive. Empty ones are not known.
type mirrors struct {
	Main     string `json:"main"`
	Security string `json:"security"`
}

// debianSources returns the lines of the target's sources.list, or none if
// neither the recipe nor the host's apt names a mirror: then the bootstrap tool
// takes its own default.
func debianSources(ctx context.Context, r proc.Runner, t *family.Target, o Options) ([]string, error) {
	m, err := o.mirrors(ctx, r)
	if err != nil {
		return nil, err
	}
	if t.Mirror != "" {
		m.Main = t.Mirror
	}
	if m.Main == "" {
		return nil, nil
	}
	lines := []string{sourceLine(m.Main, suite(t))}
	if rolling[suite(t)] {
		return lines, nil
	}
	lines = append(lines, sourceLine(m.Main, suite(t)+"-updates"))
	if m.Security != "" {
		lines = append(lines, sourceLine(m.Security, suite(t)+"-security"))
	}
	return lines, nil
}

func sourceLine(mirror, suite string) string {
	options := ""
	if _, err := os.Stat(debianKeyring); err == nil {
		options = "[signed-by=" + debianKeyring + "] "
	}
	return "deb " + options + mirror + " " + suite + " main"
}

// suite is the target's release, stable where the recipe names none.
func suite(t *family.Target) string {
	if t.Release == "" {
		return "stable"
	}
	return t.Release
}

// hostMirrors asks the host's apt for the Debian mirrors it is set to
// (apt-get(8), indextargets). A host without apt knows none.
func hostMirrors(ctx context.Context, r proc.Runner) (mirrors, error) {
	const format = "$(SITE)|$(RELEASE)|$(COMPONENT)|$(CREATED_BY)|$(ORIGIN)"
	var m mirrors
	// The second call names also sources whose lists were never downloaded.
	for _, more := range [][]string{nil, {"--no-release-info"}} {
		var out bytes.Buffer
		argv := append([]string{"apt-get", "indextargets", "--format", format}, more...)
		err := r.Run(ctx, proc.Cmd{Argv: argv, Stdout: &out})
		if errors.Is(err, proc.ErrNotFound) {
			return m, nil
		}
		if err != nil {
			return m, fmt.Errorf("ask the host's apt for its mirrors: %w", err)
		}
		for line := range strings.Lines(out.String()) {
			m.take(strings.Split(strings.TrimSpace(line), "|"))
		}
		if m.Main != "" {
			break
		}
	}
	return m, nil
}

// take reads one line of hostMirrors' format; the first of each kind counts.
func (m *mirrors) take(fields []string) {
	if len(fields) != 5 || fields[2] != "main" || fields[3] != "Packages" {
		return
	}
	site, release, origin := fields[0], fields[1], fields[4]
	u, err := url.Parse(site)
	if err != nil || (origin != "Debian" && !looksDebian(origin, u)) {
		return
	}
	switch {
	case strings.HasSuffix(release, "-security"):
		if m.Security == "" {
			m.Security = site
		}
	case !strings.Contains(release, "-") && m.Main == "":
		m.Main = site
	}
}

// looksDebian judges a source by its address where no list tells its origin:
// apt leaves the variable as it stands.
func looksDebian(origin string, u *url.URL) bool {
	base := path.Base(u.Path)
	return strings.HasPrefix(origin, "$(") && (base == "debian" || base == "debian-security")
}
