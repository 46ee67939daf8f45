package family

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

const distroAlpine = "alpine"

// What a build file means that does not say.
const (
	// The distribution the older families are made for, and what mos_demo uses.
	defaultDistro = "debian"
	// MiB; what the workstation of the older mos_sec family asked for.
	defaultFreeMB = 800
	// IANA's port for ssh.
	defaultSSHPort = 22
	// The oldest build files have no <build> and so no kernel=. The distribution's
	// own kernel is the choice that needs nothing but its archive: source takes a
	// compiler and minutes, prebuilt takes somebody to trust.
	defaultKernel = KernelDistro
	// product.md: push and pull work on ~/mos-shared/.
	defaultSharedDir = "mos-shared"
)

// maxFreeMB is 16 TiB in MiB, the largest ext4 with blocks of 4 KiB and 32-bit
// block numbers (ext4(5), without the 64bit feature).
const maxFreeMB = 16 << 20

// elements are the elements of a build file with their attributes.
var elements = map[string][]string{
	"build":    {"id", "kernel", "rootfs", "distro", "release", "arch", "mirror", "security", "bootstrap", "init", "after", "optional"},
	"details":  {"username", "name", "hostname", "border"},
	"size":     {"free_space_mb", "compression"},
	"network":  {"network_addr", "ip_addr", "ssh_port"},
	"ssh":      {"port"},
	"shared":   {"dir"},
	"run":      {"allow"},
	"kernel":   {"url", "package", "sha256", "initrd", "initrd_sha256"},
	"packages": {},
}

var elementNames = []string{"build", "details", "size", "network", "ssh", "shared", "run", "kernel", "packages"}

var kernels = map[string]KernelMode{
	"yes": KernelSource, "source": KernelSource, "no": KernelNone, "distro": KernelDistro, "prebuilt": KernelPrebuilt,
	// The older mos_mersec family names the file that a kernel build makes.
	"bzImage": KernelSource,
}

var (
	yesNo   = map[string]bool{"yes": true, "no": false}
	distros = map[string]string{
		"debian": "debian", "ubuntu": "ubuntu", "devuan": "devuan", "kali": "kali", distroAlpine: distroAlpine,
	}
	inits      = map[string]Init{"openrc": InitOpenRC, "busybox": InitBusybox}
	bootstraps = map[string]string{"mmdebstrap": "mmdebstrap", "debootstrap": "debootstrap"}
)

// buildFile is a build file while it is read.
type buildFile struct {
	file     *file
	target   *Target
	elements map[string]*node
	addrLine int // the line of ip_addr
}

// newTarget is a target as a build file that says nothing makes it.
func newTarget(family, name string) *Target {
	return &Target{
		Family: family, Name: name, Hostname: hostname(name), Distro: defaultDistro, FreeMB: defaultFreeMB,
		SSHPort: defaultSSHPort, Rootfs: true, Kernel: defaultKernel, SharedDir: defaultSharedDir,
	}
}

// readBuild fills a target from its build file. What is faulty keeps its default,
// so that the rest can be judged.
func readBuild(data []byte, f *file, t *Target) *buildFile {
	b := &buildFile{file: f, target: t, elements: map[string]*node{}}
	root := readXML(data, f)
	if root == nil {
		return b
	}
	if root.name != "target" {
		f.fault(root.line, "", "the root element must be <target>, got <%s>", shorten(root.name))
		return b
	}
	b.index(root)
	b.build(b.elements["build"])
	b.prebuilt(b.elements["kernel"])
	b.details(b.elements["details"])
	take(b, b.elements["size"], "free_space_mb", &t.FreeMB, number(maxFreeMB))
	take(b, b.elements["size"], "compression", &t.Compress, oneOf(map[string]bool{"zstd": true, "no": false}, "zstd or no"))
	b.network(b.elements["network"])
	b.ssh(b.elements["ssh"])
	take(b, b.elements["shared"], "dir", &t.SharedDir,
		match(sharedForm, "must be a folder below the user's home, such as mos-shared"))
	take(b, b.elements["run"], "allow", &t.RunAllow, runAllow)
	b.packages(b.elements["packages"])
	return b
}

// index finds the elements, each once, and faults all that is not known.
func (b *buildFile) index(root *node) {
	b.known(root, nil)
	b.noText(root)
	for _, n := range root.children {
		attrs, ok := elements[n.name]
		if !ok {
			b.file.fault(n.line, "target", "unknown element %s: %s", show(n.name), suggestion(n.name, elementNames))
			continue
		}
		b.known(n, attrs)
		if n.name != "packages" {
			b.noText(n)
			b.noChildren(n)
		}
		if first := b.elements[n.name]; first != nil {
			b.file.fault(n.line, n.name, "is there twice, first in line %d", first.line)
			continue
		}
		b.elements[n.name] = n
	}
}

func (b *buildFile) known(n *node, attrs []string) {
	for _, a := range n.attrs {
		if !slices.Contains(attrs, a.name) {
			b.file.fault(a.line, n.name, "unknown attribute %s: %s", show(a.name), suggestion(a.name, attrs))
		}
	}
}

func (b *buildFile) noText(n *node) {
	for _, t := range n.texts {
		for word, line := range t.words() {
			b.file.fault(line, n.name, "text where none belongs: %s", show(word))
			return
		}
	}
}

func (b *buildFile) noChildren(n *node) {
	for _, c := range n.children {
		b.file.fault(c.line, n.name, "unknown element %s: none belongs in <%s>", show(c.name), n.name)
	}
}

// words goes over the words of a text with the line of each.
func (t text) words() func(yield func(string, int) bool) {
	return func(yield func(string, int) bool) {
		for i, line := range strings.Split(t.value, "\n") {
			for _, word := range strings.Fields(line) {
				if !yield(word, t.line+i) {
					return
				}
			}
		}
	}
}

// take puts the value of an attribute, if there is one, in its place, and
// returns whether it did.
func take[T any](b *buildFile, n *node, name string, into *T, parse func(string) (T, error)) bool {
	a, ok := n.attr(name)
	if !ok {
		return false
	}
	v, err := parse(a.value)
	switch {
	case errors.Is(err, errSecret):
		b.file.fault(a.line, n.name+": "+name, "%v", err)
		return false
	case err != nil:
		b.file.fault(a.line, n.name+": "+name, "%v, got %s", err, show(a.value))
		return false
	}
	*into = v
	return true
}

func (b *buildFile) build(n *node) {
	t := b.target
	word := match(wordForm, "must be of lower-case letters, digits, dots, dashes and _, a letter or digit first")
	var id string
	take(b, n, "id", &id, func(s string) (string, error) {
		if s != t.Name {
			return "", fmt.Errorf("must be %s, as the file is named", t.Name)
		}
		return s, nil
	})
	take(b, n, "rootfs", &t.Rootfs, oneOf(yesNo, "yes or no"))
	take(b, n, "optional", &t.Optional, oneOf(yesNo, "yes or no"))
	take(b, n, "distro", &t.Distro, oneOf(distros, "debian, ubuntu, devuan, kali or alpine"))
	take(b, n, "release", &t.Release, word)
	take(b, n, "arch", &t.Arch, word)
	archive := b.archive()
	take(b, n, "mirror", &t.Mirror, archive)
	take(b, n, "security", &t.Security, archive)
	if a, _ := n.attr("security"); t.Security != "" && t.Distro != defaultDistro {
		b.file.fault(a.line, "build: security", "is for debian targets: %s has it beside its other packages", t.Distro)
	}
	take(b, n, "after", &t.After, after)
	b.kernel(n)
	take(b, n, "bootstrap", &t.Bootstrap, oneOf(bootstraps, "mmdebstrap or debootstrap"))
	if t.Distro == distroAlpine {
		t.Init = InitOpenRC
	}
	take(b, n, "init", &t.Init, oneOf(inits, "openrc or busybox"))
	if a, _ := n.attr("init"); t.Init != "" && t.Distro != distroAlpine {
		b.file.fault(a.line, "build: init", "is for alpine targets, not for %s", t.Distro)
	}
	if a, _ := n.attr("bootstrap"); t.Bootstrap != "" && t.Distro == distroAlpine {
		b.file.fault(a.line, "build: bootstrap", "%s cannot make %s", t.Bootstrap, t.Distro)
	}
}

// archive returns the check for the address of packages. A folder of the host is one
// for Alpine alone: apt reads it in the tree, at every stage and in the guest again.
func (b *buildFile) archive() func(string) (string, error) {
	if b.target.Distro == distroAlpine {
		return mirror
	}
	return func(s string) (string, error) {
		u, err := mirror(s)
		if err == nil && !strings.HasPrefix(strings.ToLower(u), "http") {
			err = fmt.Errorf("may be a folder of this host for alpine targets only, not for %s: serve it by http", b.target.Distro)
		}
		return u, err
	}
}

// kernel reads the kernel mode. A distribution's kernel is taken out of the
// rootfs, so that there is none where no rootfs is built.
func (b *buildFile) kernel(n *node) {
	t := b.target
	given := take(b, n, "kernel", &t.Kernel, oneOf(kernels, "yes, no, source, distro or prebuilt"))
	if t.Rootfs || t.Kernel != KernelDistro {
		return
	}
	if a, _ := n.attr("kernel"); given {
		b.file.fault(a.line, "build: kernel", `distro is taken out of the rootfs, which rootfs="no" leaves unbuilt`)
	}
	t.Kernel = KernelNone
}

// details reads the user. name= is of the oldest files; it never had to agree
// with anything (mos_sec's firewall says guest), and means nothing. root is a
// user like any other here: the gateway of the older mos_lab is entered so.
func (b *buildFile) details(n *node) {
	take(b, n, "username", &b.target.User, match(userForm, "must be a user name: lower-case letters, digits, - and _, no digit or - first, at most 32"))
	take(b, n, "border", &b.target.Border, border)
	take(b, n, "hostname", &b.target.Hostname, match(hostForm, "must be a host name: lower-case letters, digits and inner dashes, at most 63"))
}

func (b *buildFile) network(n *node) {
	t := b.target
	if n == nil {
		return
	}
	for _, name := range []string{"network_addr", "ip_addr"} {
		if _, ok := n.attr(name); !ok {
			b.file.fault(n.line, "network", "%s is missing", name)
		}
	}
	both := take(b, n, "network_addr", &t.Gateway, address)
	both = take(b, n, "ip_addr", &t.Addr, address) && both
	take(b, n, "ssh_port", &t.SSHPort, number(maxPort))
	ip, _ := n.attr("ip_addr")
	b.addrLine = ip.line
	switch {
	case both && t.Addr == t.Gateway:
		b.file.fault(ip.line, "network: ip_addr", "must differ from network_addr, got %s", t.Addr)
	case both && t.Addr.Is4() != t.Gateway.Is4():
		b.file.fault(ip.line, "network: ip_addr", "must be of one IP version with network_addr: %s and %s", t.Addr, t.Gateway)
	}
}

// maxPort is the largest TCP port: RFC 9293.
const maxPort = 65535

// ssh reads the newer spelling of ssh_port.
func (b *buildFile) ssh(n *node) {
	a, _ := n.attr("port")
	older, both := b.elements["network"].attr("ssh_port")
	if both && n != nil && older.value != a.value && a.value != "" {
		b.file.fault(a.line, "ssh: port", "must agree with ssh_port %s in line %d, got %s", show(older.value), older.line, show(a.value))
	}
	take(b, n, "port", &b.target.SSHPort, number(maxPort))
}

// packages reads names as words, as <package> elements, or as both.
func (b *buildFile) packages(n *node) {
	if n == nil {
		return
	}
	b.packageWords(n)
	for _, c := range n.children {
		if c.name != "package" {
			b.file.fault(c.line, "packages", "unknown element %s: %s", show(c.name), suggestion(c.name, []string{"package"}))
			continue
		}
		b.known(c, nil)
		b.noChildren(c)
		if b.packageWords(c) != 1 {
			b.file.fault(c.line, "packages: package", "must hold one name")
		}
	}
}

// packageWords takes the names in n's own text and returns how many there were.
func (b *buildFile) packageWords(n *node) int {
	check, count := packageName(b.target.Distro), 0
	for _, t := range n.texts {
		for word, line := range t.words() {
			count++
			if _, err := check(word); err != nil {
				b.file.fault(line, "packages", "%v, got %s", err, show(word))
				continue
			}
			b.target.Packages = append(b.target.Packages, word)
		}
	}
	return count
}

// sameAddress notes the targets that have the address of another.
func sameAddress(files []*buildFile) {
	first := map[netip.Addr]*buildFile{}
	for _, b := range files {
		addr := b.target.Addr
		if other := first[addr]; other != nil && addr.IsValid() {
			b.file.fault(b.addrLine, "network: ip_addr", "%s is also the address of %s: %s:%d",
				addr, other.target.FullID(), printable(other.file.path), other.addrLine)
			continue
		}
		first[addr] = b
	}
}
