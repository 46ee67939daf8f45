package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/image"
	"meros/internal/virt"
)

// plan is what an Init has to start. Everything that can be known beforehand is
// checked before the first of it starts.
type plan struct {
	family    *family.Family
	targets   []*family.Target // all that were asked for, those that run included
	paused    []*family.Target // of them, those that run and do not go on
	ranBefore []*family.Target // all that run already, asked for or not
	networks  []virt.NetworkDoc
	domains   []domainStart
	accel     virt.Accel
	warnings  []string
	unheard   bool // the guests' consoles are not kept
}

type domainStart struct {
	target     *family.Target
	doc        virt.Document
	disposable bool
}

// host is what libvirt and the kernel say is there already.
type host struct {
	domains  []virt.Domain
	networks []virt.Network
	net      virt.HostNet
	has      virt.Resources
	caps     virt.Capabilities
	accel    virt.Accel

	unbounded error // why guests' consoles are not kept: they could fill the disk
}

func (g Guests) plan(ctx context.Context, d virt.Daemon, f *family.Family, targets []*family.Target, o InitOptions) (plan, error) {
	p := plan{family: f}
	h, err := g.look(ctx, d, o)
	if err != nil {
		return p, err
	}
	p.accel, p.unheard = h.accel, h.unbounded != nil
	if h.unbounded != nil {
		p.warnings = append(p.warnings, fmt.Sprintf("consoles are not kept: %v", h.unbounded))
	}
	networks, err := g.networkDocs(f)
	if err != nil {
		return p, err
	}
	var faults []error
	needed := map[string]bool{}
	shares := g.shares(targets, h, o)
	for _, t := range targets {
		doc, err := g.domainDoc(f, t, networks, h, shares[t.Name], o)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if doc.Name == "" {
			p.warnings = append(p.warnings, fmt.Sprintf("%s has no libvirt document in the recipe: not started", t.FullID()))
			continue
		}
		for _, n := range doc.Networks {
			needed[n] = true
		}
		p.targets = append(p.targets, t)
		faults = append(faults, g.planDomain(&p, t, doc, h.domains, o))
	}
	// One target alone needs only the networks it joins.
	if len(targets) < len(f.Targets) {
		networks = slices.DeleteFunc(networks, func(n virt.NetworkDoc) bool { return !needed[n.Name] })
	}
	faults = append(faults, g.planNetworks(&p, networks, h)...)
	faults = append(faults, p.domainClashes(h)...)
	p.ranBefore = g.runningOf(f, h.domains)
	return p, errors.Join(append(faults, enforceable(f, p.ranBefore))...)
}

func (g Guests) look(ctx context.Context, d virt.Daemon, o InitOptions) (h host, err error) {
	h.accel, h.unbounded = virt.ChooseAccel(ctx, o.Accel), virt.LogsBounded()
	if h.caps, err = d.Capabilities(ctx, h.accel); err != nil {
		return h, err
	}
	if h.domains, err = d.Domains(ctx); err != nil {
		return h, err
	}
	if h.networks, err = d.Networks(ctx); err != nil {
		return h, err
	}
	if h.has, err = virt.ReadResources(); err != nil {
		return h, err
	}
	h.net, err = virt.ReadHostNet()
	return h, err
}

func (g Guests) networkDocs(f *family.Family) ([]virt.NetworkDoc, error) {
	var docs []virt.NetworkDoc
	var faults []error
	for _, n := range f.Networks {
		content, err := os.ReadFile(n.File)
		if err == nil {
			var doc virt.NetworkDoc
			doc, err = virt.NetworkDocument(content, n.FullID, virt.Owner{Family: f.Name, Root: g.root()})
			docs = append(docs, doc)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", n.File, err))
		}
	}
	return docs, errors.Join(faults...)
}

// domainDoc returns a target's document, ready for libvirt; one without a name if
// the recipe has none.
func (g Guests) domainDoc(f *family.Family, t *family.Target, networks []virt.NetworkDoc, h host, shareMiB int, o InitOptions) (virt.Document, error) {
	if t.DomainFile == "" {
		return virt.Document{}, nil
	}
	content, err := os.ReadFile(t.DomainFile)
	if err != nil {
		return virt.Document{}, err
	}
	id := t.FullID()
	guest := virt.Guest{
		FullID: id, Owner: virt.Owner{Family: f.Name, Target: t.Name, Root: g.root()},
		Image: g.Paths.Image(id), ConsoleLog: consoleLog(g.Paths, id),
		Accel: h.accel, Host: h.caps, Want: o.Want, Has: h.has, ShareMiB: shareMiB, Exists: exists,
	}
	if h.unbounded != nil {
		guest.ConsoleLog = ""
	}
	if t.Imported && exists(g.Paths.CDROM(id)) {
		guest.CDROM = g.Paths.CDROM(id)
		if !exists(guest.Image) {
			guest.Image = ""
		}
	}
	guest.Mark = virt.Mark{Recipe: g.recipeHash(t), Rank: f.Rank(t), Started: time.Now(), Disposable: o.Disposable}
	if disk, err := image.DiskBytes(guest.Image); err == nil {
		guest.Mark.Disk = disk
	}
	if o.Disposable && guest.Image != "" {
		guest.Image = g.Paths.Overlay(id)
	}
	for _, n := range networks {
		guest.Networks = append(guest.Networks, n.Name)
	}
	if kernelMode(g.Paths, t) != family.KernelNone {
		guest.Kernel = g.Paths.Kernel(id)
		if exists(g.Paths.Initrd(id)) {
			guest.Initrd = g.Paths.Initrd(id)
		}
	}
	if _, err := ReadImageRecord(g.Paths, id); err == nil && t.Rootfs {
		guest.Root = rootWords(t, guest.Initrd != "")
	}
	doc, err := virt.DomainDocument(content, guest)
	if err != nil {
		return doc, fmt.Errorf("%s: %w", t.DomainFile, err)
	}
	return doc, nil
}

// rootWords name the root of an image that meros packed on the kernel command
// line: the partition by its UUID, which a kernel finds by itself and Debian's
// initrd as well. Alpine's initrd mounts with busybox, which knows UUID= of file
// systems only, and has no driver of one unless it is named (mkinitfs-bootparam(7)).
func rootWords(t *family.Target, initrd bool) string {
	ids := image.UUIDsOf(t.FullID())
	if initrd && t.Distro == "alpine" {
		return "root=UUID=" + ids.Root + " rootfstype=ext4 modules=sd-mod,ext4"
	}
	return "root=PARTUUID=" + ids.Partition
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// planDomain adds a target's domain to the plan unless it runs already.
func (g Guests) planDomain(p *plan, t *family.Target, doc virt.Document, there []virt.Domain, o InitOptions) error {
	own := virt.Owner{Family: t.Family, Target: t.Name, Root: g.root()}
	at := slices.IndexFunc(there, func(d virt.Domain) bool { return d.Name == doc.Name })
	if at >= 0 {
		d := there[at]
		if d.Owner == own && d.State.Active() {
			g.Step("%s is %s already", doc.Name, d.State)
			if d.Mark.Recipe != g.recipeHash(t) {
				p.warnings = append(p.warnings, d.Name+" runs as the recipe was when it was started: what has changed takes a shutdown")
			}
			if d.State == virt.StatePaused {
				p.paused = append(p.paused, t)
			}
			return sameKind(d, o)
		}
		return foreign("domain", doc.Name, d.Owner, own, string(d.State))
	}
	if o.Strict && len(doc.Warnings) > 0 {
		return hint.Add(fmt.Errorf("this host cannot run the recipe as it is: %s", strings.Join(doc.Warnings, "; ")),
			"leave --strict away, and it is adapted")
	}
	p.warnings = append(p.warnings, doc.Warnings...)
	p.domains = append(p.domains, domainStart{t, doc, slices.Contains(doc.Files, g.Paths.Overlay(doc.Name))})
	return errors.Join(g.checkFiles(t, doc), g.checkLocks(doc, there))
}

// foreign words that libvirt has an object of a name of ours which we did not
// start, and which is therefore left alone.
func foreign(kind, name string, theirs, ours virt.Owner, state string) error {
	if theirs == ours {
		undefine := map[string]string{"domain": "undefine", "network": "net-undefine"}[kind]
		return hint.Add(fmt.Errorf("libvirt holds a %s %s that is %s, which meros would not leave behind", kind, name, state),
			"take it away first: `virsh %s %s`", undefine, name)
	}
	return hint.Add(fmt.Errorf("libvirt has a %s %s (%s) of %s: it is not touched", kind, name, state, theirs.Describe()),
		"stop or rename it where it was made, then try again")
}

// checkFiles looks at what the domain opens: that it is there, and that libvirt's
// qemu user gets to it.
func (g Guests) checkFiles(t *family.Target, doc virt.Document) error {
	var faults []error
	if exists(g.Paths.Placing(t.FullID())) {
		faults = append(faults, hint.Add(fmt.Errorf("%s: a build ended while it put image and kernel in place: they may not belong together", t.FullID()),
			"meros build %s %s", t.Family, t.Name))
	}
	told := map[string]bool{} // closed folders
	for _, file := range doc.Files {
		if file == g.Paths.Overlay(t.FullID()) {
			file = g.Paths.Image(t.FullID()) // the overlay is made at the start
		}
		_, err := os.Stat(file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			faults = append(faults, g.missing(t, file))
		case err != nil:
			faults = append(faults, fmt.Errorf("%s: %w", t.FullID(), err))
		case doc.QEMU:
			err := reachable(t, file)
			if closed, ok := errors.AsType[*virt.ClosedFolderError](err); ok {
				if told[closed.Dir] {
					continue
				}
				told[closed.Dir] = true
			}
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

func (g Guests) missing(t *family.Target, file string) error {
	id := t.FullID()
	what := "a file of its libvirt document"
	switch file {
	case g.Paths.Image(id):
		what = "its image"
	case g.Paths.Kernel(id):
		what = "its kernel"
	default:
		return fmt.Errorf("%s: %s is missing: %s", id, what, file)
	}
	err := fmt.Errorf("%s: %s is missing: %s", id, what, file)
	if t.Imported {
		return hint.Add(err, "meros import %s FILE", id)
	}
	return hint.Add(err, "meros build %s %s", t.Family, t.Name)
}

func reachable(t *family.Target, file string) error {
	user, err := virt.FindQEMUUser()
	if err != nil {
		return nil // libvirt will say it in its own words
	}
	err = user.CanReach(file)
	closed, ok := errors.AsType[*virt.ClosedFolderError](err)
	if !ok {
		return err
	}
	return hint.Add(fmt.Errorf("%s: %s: %w", t.FullID(), file, closed),
		"let it pass, which shows nobody what is inside: `chmod o+x %s`; or keep the root elsewhere (--root)", closed.Dir)
}

// planNetworks adds the networks that do not run yet, and returns what stands in
// their way.
func (g Guests) planNetworks(p *plan, networks []virt.NetworkDoc, h host) []error {
	own := virt.Owner{Family: p.family.Name, Root: g.root()}
	var faults []error
	for _, n := range networks {
		at := slices.IndexFunc(h.networks, func(t virt.Network) bool { return t.Name == n.Name })
		switch {
		case at < 0:
			p.networks = append(p.networks, n)
		case h.networks[at].Owner == own && h.networks[at].Active:
			g.Step("network %s is up already", n.Name)
			faults = append(faults, changedNetwork(p.family, n, h.networks[at]))
		default:
			faults = append(faults, foreign("network", n.Name, h.networks[at].Owner, own, activity(h.networks[at])))
		}
	}
	running := slices.DeleteFunc(slices.Clone(h.networks), func(n virt.Network) bool { return !n.Active })
	for _, err := range virt.Clashes(p.networks, running, h.net) {
		faults = append(faults, hint.Add(err, "give it another bridge or subnet in %s/libvirt", p.family.Dir))
	}
	return faults
}

// changedNetwork returns why a network that runs is not the one of the recipe.
func changedNetwork(f *family.Family, n virt.NetworkDoc, running virt.Network) error {
	if running.Mark.Recipe == n.Recipe {
		return nil
	}
	return hint.Add(fmt.Errorf("network %s runs with other settings than the recipe's, which has changed since it was started", n.Name),
		"meros shutdown %s, then init", f.Name)
}

func activity(n virt.Network) string {
	if n.Active {
		return "running"
	}
	return "defined"
}
