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

// mirrors are the addresses of a distribution's archive. Empty ones are not known.
type mirrors struct {
	Main     string `json:"main"`
	Security string `json:"security"`
}

// sourcesOf returns the lines of the target's sources.list, or none if neither
// the recipe nor the host's apt names a mirror: then the bootstrap tool takes its
// own default. What the lines lack is told in a word for people.
func (d distro) sourcesOf(ctx context.Context, r proc.Runner, t *family.Target, o Options) (lines []string, lack string, err error) {
	all, err := o.mirrors(ctx, r)
	if err != nil {
		return nil, "", err
	}
	m := all[t.Distro]
	if t.Mirror != "" {
		m.Main = t.Mirror
	}
	if t.Security != "" {
		m.Security = t.Security
	}
	suite, err := d.suite(t)
	if err != nil || m.Main == "" {
		return nil, "", err
	}
	lines, lack = d.lines(m, suite)
	return lines, lack, nil
}

// lines are those of a suite with its updates, and what they lack.
func (d distro) lines(m mirrors, suite string) (lines []string, lack string) {
	lines = []string{d.line(m.Main, suite)}
	if d.isRolling(suite) {
		return lines, ""
	}
	lines = append(lines, d.line(m.Main, suite+"-updates"))
	switch {
	case !d.apart:
		lines = append(lines, d.line(m.Main, suite+"-security"))
	case m.Security != "":
		lines = append(lines, d.line(m.Security, suite+"-security"))
	default:
		lack = "without security updates: no mirror of them is known, security=\"…\" names one"
	}
	return lines, lack
}

func (d distro) line(mirror, suite string) string {
	options := ""
	if _, err := os.Stat(d.keyring); err == nil {
		options = "[signed-by=" + d.keyring + "] "
	}
	return "deb " + options + mirror + " " + suite + " " + d.components
}

// hostMirrors asks the host's apt for the mirrors that it is set to, by
// distribution (apt-get(8), indextargets). A host without apt knows none.
func hostMirrors(ctx context.Context, r proc.Runner) (map[string]mirrors, error) {
	const format = "$(SITE)|$(RELEASE)|$(COMPONENT)|$(CREATED_BY)|$(ORIGIN)"
	found := map[string]mirrors{}
	// The second call names also sources whose lists were never downloaded.
	for _, more := range [][]string{nil, {"--no-release-info"}} {
		var out bytes.Buffer
		argv := append([]string{"apt-get", "indextargets", "--format", format}, more...)
		err := r.Run(ctx, proc.Cmd{Argv: argv, Stdout: &out})
		if errors.Is(err, proc.ErrNotFound) {
			return found, nil
		}
		if err != nil {
			return found, fmt.Errorf("ask the host's apt for its mirrors: %w", err)
		}
		for line := range strings.Lines(out.String()) {
			take(found, strings.Split(strings.TrimSpace(line), "|"))
		}
		if len(found) > 0 {
			break
		}
	}
	return found, nil
}

// take reads one line of hostMirrors' format; the first of each kind counts.
func take(found map[string]mirrors, fields []string) {
	if len(fields) != 5 || fields[2] != "main" || fields[3] != "Packages" {
		return
	}
	site, release, origin := fields[0], fields[1], fields[4]
	name := strings.ToLower(origin)
	if strings.HasPrefix(origin, "$(") {
		name = looksLike(site)
	}
	d, known := distros[name]
	if !known {
		return
	}
	m := found[name]
	switch security := strings.HasSuffix(release, "-security"); {
	case security && d.apart && m.Security == "":
		m.Security = site
	case !strings.Contains(strings.TrimPrefix(release, "kali-"), "-") && m.Main == "":
		m.Main = site
	}
	if m != (mirrors{}) {
		found[name] = m
	}
}

// looksLike judges a source by its address where no list tells its origin: apt
// leaves the variable as it stands.
func looksLike(site string) string {
	u, err := url.Parse(site)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(path.Base(u.Path), "-security")
}
