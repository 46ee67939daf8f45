package family

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"meros/internal/layout"
)

const (
	domainPrefix  = "dom_"
	networkPrefix = "net_"
	// The older tool knew families as mos_<x>, and left mos_ out of file names.
	familyPrefix = "mos_"
	// The older mos_lab family sets a domain aside by this before its name: the
	// older tool started dom_* and net_* only.
	asidePrefix = "idle-"
	// What libvirt documents write where the network's full id is to be.
	networkVariable = "$NETWORK_FULL_ID"
)

// maxInterface is IFNAMSIZ less the final zero byte: netdevice(7).
const maxInterface = 15

// networkForm is what a network may be called: it becomes a libvirt name, and
// part of file names and filter rules.
var networkForm = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

// libvirt reads libvirt/*.xml.
func (l *loader) libvirt() {
	domains, networks := map[string]string{}, map[string]string{} // full id to file
	for _, name := range l.named("libvirt", ".xml") {
		base := strings.TrimSuffix(path.Base(name), ".xml")
		if aside(base) {
			continue
		}
		f := l.file(name)
		data, ok := l.readDocument(f, name)
		if !ok {
			continue
		}
		root := readXML(data, f)
		switch {
		case root == nil:
		case root.name == "domain":
			l.domain(f, name, base, domains)
		case root.name == "network":
			l.network(f, name, base, root, networks)
		default:
			f.fault(root.line, "", "the root element must be <domain> or <network>, got <%s>", shorten(root.name))
		}
	}
}

func aside(base string) bool {
	rest, ok := strings.CutPrefix(base, asidePrefix)
	return ok && (strings.HasPrefix(rest, domainPrefix) || strings.HasPrefix(rest, networkPrefix))
}

// domain gives a target its domain document. A target without a build file is
// one whose image the user brings.
func (l *loader) domain(f *file, name, base string, seen map[string]string) {
	id, err := domainTarget(l.family.Name, base)
	if err != nil {
		f.fault(0, "", "%v", err)
		return
	}
	if other, twice := seen[id]; twice {
		f.fault(0, "", "%s-%s has two domains, this and %s", l.family.Name, id, printable(other))
		return
	}
	seen[id] = f.path
	t := l.family.Target(id)
	if t == nil {
		t = &Target{
			Family: l.family.Name, Name: id, Imported: true, Kernel: KernelNone,
			Hostname: hostname(id), SSHPort: defaultSSHPort, SharedDir: defaultSharedDir,
		}
		l.family.Targets = append(l.family.Targets, t)
	}
	t.DomainFile = l.abs(name)
}

// domainTarget returns the target that a domain document is of, by the name of
// its file without .xml.
func domainTarget(family, base string) (string, error) {
	if strings.HasPrefix(base, networkPrefix) {
		return "", fmt.Errorf("holds a <domain>, and is named as a network")
	}
	id, ok := strings.CutPrefix(base, domainPrefix)
	if !ok {
		return base, layout.CheckTarget(base)
	}
	named, target, ok := strings.Cut(id, "-")
	if !ok {
		return "", fmt.Errorf("the name must be dom_%s-TARGET.xml or TARGET.xml", strings.TrimPrefix(family, familyPrefix))
	}
	if familyPrefix+named != family && named != family {
		return "", fmt.Errorf("is named as a domain of the family %s: in %s it would be dom_%s-%s.xml",
			show(familyPrefix+named), family, strings.TrimPrefix(family, familyPrefix), target)
	}
	return target, layout.CheckTarget(target)
}

func (l *loader) network(f *file, name, base string, root *node, seen map[string]string) {
	if strings.HasPrefix(base, domainPrefix) {
		f.fault(root.line, "", "holds a <network>, and is named as a domain")
		return
	}
	id := networkID(l.family.Name, base)
	if !networkForm.MatchString(id) {
		f.fault(0, "", "%s is no network's name: it may have lower-case letters, digits, _ and -, at most 64", show(id))
		return
	}
	if other, twice := seen[id]; twice {
		f.fault(0, "", "the network %s is there twice, here and in %s", id, printable(other))
		return
	}
	seen[id] = f.path
	bridge(f, root, id)
	l.family.Networks = append(l.family.Networks, &Network{FullID: id, File: l.abs(name)})
}

// networkID returns a network's full id by the name of its file without .xml.
func networkID(family, base string) string {
	x, older := strings.CutPrefix(base, networkPrefix)
	switch rest, own := strings.CutPrefix(x, family); {
	case !older:
		return family + "_" + base
	case own && (rest == "" || rest[0] == '_' || rest[0] == '-'):
		return x
	}
	return familyPrefix + x
}

// bridge checks the name of the network's bridge, which the kernel bounds.
func bridge(f *file, root *node, id string) {
	a, ok := root.child("bridge").attr("name")
	if !ok {
		return
	}
	name := strings.ReplaceAll(a.value, networkVariable, id)
	advice := ""
	if name != a.value {
		advice = "give the file of a network whose bridge is named " + networkVariable + " a shorter name"
	}
	if len(name) > maxInterface {
		f.add(Fault{
			File: f.path, Line: a.line, Where: "bridge: name", advice: advice,
			Text: fmt.Sprintf("must have at most %d bytes, as a Linux interface, got %s", maxInterface, show(name)),
		})
	}
	if name == "." || name == ".." || strings.ContainsAny(name, "/: \t\r\n") {
		f.fault(a.line, "bridge: name", "must be an interface's name, without blanks, : and /, got %s", show(name))
	}
}
