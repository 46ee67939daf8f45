package lifecycle

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/image"
	"meros/internal/proc"
	"meros/internal/virt"
)

// shares is how much memory each target that is to start may have, in MiB, so
// that all of them fit into this host beside what runs; by name. A target that
// is not in it says nothing of its memory.
func (g Guests) shares(targets []*family.Target, h host, o InitOptions) map[string]int {
	if o.Want.MemoryMiB > 0 {
		return nil // the person knows better
	}
	taken, runs := 0, map[string]bool{}
	for _, d := range h.domains {
		if d.State.Active() {
			taken, runs[d.Name] = taken+d.MemoryMiB(), true
		}
	}
	var names []string
	var asked []int
	for _, t := range targets {
		content, err := os.ReadFile(t.DomainFile)
		if mib := virt.MemoryOf(content); err == nil && mib > 0 && !runs[t.FullID()] {
			names, asked = append(names, t.Name), append(asked, mib)
		}
	}
	shares := map[string]int{}
	for i, mib := range h.has.Shares(asked, taken) {
		shares[names[i]] = mib
	}
	return shares
}

// domainClashes returns what the domains to start need and others have.
func (p *plan) domainClashes(h host) []error {
	var start []virt.Document
	for _, d := range p.domains {
		start = append(start, d.doc)
	}
	running := slices.DeleteFunc(slices.Clone(h.domains), func(d virt.Domain) bool { return !d.State.Active() })
	var faults []error
	for _, err := range virt.DomainClashes(start, running, virt.ReadListeners()) {
		faults = append(faults, hint.Add(err, "give it another in %s/libvirt, or stop the other", p.family.Dir))
	}
	return faults
}

// checkLocks finds an image that another domain or program has open, which QEMU
// would refuse to share.
func (g Guests) checkLocks(doc virt.Document, there []virt.Domain) error {
	file := g.Paths.Image(doc.Name)
	locked := image.InUse
	if slices.Contains(doc.Files, g.Paths.Overlay(doc.Name)) {
		locked = image.IsWritten // others may read it too
	}
	// One that may not be asked is left to libvirt, which says it in its own words.
	if used, err := locked(file); err != nil || !used {
		return nil
	}
	err := fmt.Errorf("%s: its image %s is in use by %s", doc.Name, file, userOfImage(file, there))
	return hint.Add(err, "stop that first; two that write one image destroy it")
}

// checkUnused makes sure that no guest has the image file of a target open.
func checkUnused(file, id string) error {
	used, err := image.InUse(file)
	if used {
		err = fmt.Errorf("%s is in use by a running guest", file)
	}
	if used || errors.Is(err, image.ErrTaken) {
		err = hint.Add(err, "meros shutdown %s", id)
	}
	if errors.Is(err, image.ErrTaken) {
		err = hint.Add(err, "where no guest has it: `sudo chown $(id -u) %s`", file)
	}
	return err
}

// userOfImage names the domain, else the process, that has an image open.
func userOfImage(file string, there []virt.Domain) string {
	for _, d := range there {
		if d.State.Active() && d.Opens(file) {
			return fmt.Sprintf("the domain %s of %s", d.Name, d.Owner.Describe())
		}
	}
	if who := proc.Holder(file); who != "" {
		return who
	}
	return "another program"
}
