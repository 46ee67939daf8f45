package lifecycle

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"meros/internal/family"
	"meros/internal/image"
	"meros/internal/virt"
)

// InfoVersion is the version of Info's JSON form. Fields may be added to it; when
// one is taken away or changes its meaning, it grows.
const InfoVersion = 1

// Info is what meros knows of its families.
type Info struct {
	Version  int          `json:"version"`
	Root     string       `json:"root"`
	Libvirt  string       `json:"libvirt"` // "ok", else why it did not answer
	Families []FamilyInfo `json:"families"`
}

// FamilyInfo is a family: one with a recipe, or one that only runs.
type FamilyInfo struct {
	Name     string        `json:"name"`
	Fault    string        `json:"fault,omitempty"` // why the recipe was not read
	Targets  []TargetInfo  `json:"targets"`
	Networks []NetworkInfo `json:"networks"`
	Policy   bool          `json:"policy"`           // whether the recipe says who may talk to whom
	Filter   string        `json:"filter,omitempty"` // the filter rules, if any were loaded: ok, gone, changed or unknown
}

// TargetInfo is a target and its guest.
type TargetInfo struct {
	FullID       string     `json:"fullId"`
	Distro       string     `json:"distro,omitempty"`
	Release      string     `json:"release,omitempty"`
	Kernel       string     `json:"kernel,omitempty"`       // distro, source, prebuilt or no
	Version      string     `json:"version,omitempty"`      // the kernel's
	RecipeKernel string     `json:"recipeKernel,omitempty"` // what the recipe says where the image has another, as by build --kernel
	Origin       string     `json:"origin,omitempty"`       // where the kernel came from
	Image        *ImageInfo `json:"image"`                  // null when there is none
	Brought      bool       `json:"brought,omitempty"`      // the user brings the image: meros import
	Optional     bool       `json:"optional,omitempty"`     // the family is built and started without it where its mirror cannot be reached
	State        virt.State `json:"state"`
	User         string     `json:"user,omitempty"`
	Address      string     `json:"address,omitempty"`
	SSHPort      int        `json:"sshPort,omitempty"`
	Console      string     `json:"console,omitempty"` // the log of its serial console
	Policy       []string   `json:"policy,omitempty"`  // what the family's policy allows from it and to it

	// Of a guest that runs.
	Why        string     `json:"why,omitempty"`        // why it is paused or crashed
	Disposable bool       `json:"disposable,omitempty"` // what it writes is thrown away
	Stale      bool       `json:"stale,omitempty"`      // the recipe or the image has changed since it was started
	Started    *time.Time `json:"started,omitempty"`
	MemoryMiB  uint64     `json:"memoryMiB,omitempty"`
	CPUs       int        `json:"cpus,omitempty"`
	CPUSeconds float64    `json:"cpuSeconds,omitempty"` // of the host's processors
	Written    int64      `json:"written,omitempty"`    // bytes of the host's disk that a disposable guest takes
}

// ImageInfo is a disk image.
type ImageInfo struct {
	File  string    `json:"file"`
	Bytes int64     `json:"bytes"` // of the file; the guest sees a larger disk
	Disk  int64     `json:"disk"`  // bytes of the disk that the guest sees; 0 if it cannot be read
	Built time.Time `json:"built"`

	// Whether a build with the same kernel would make the same image again: same,
	// changed or unknown.
	Recipe string `json:"recipe"`
}

// NetworkInfo is a libvirt network of a family.
type NetworkInfo struct {
	Name  string `json:"name"`
	State string `json:"state"` // up, down or unknown
}

// Info returns all families, or the one named; none is an error that wraps
// family.ErrNotFound. Without libvirt the states are unknown, and Info.Libvirt
// says why.
func (g Guests) Info(ctx context.Context, only string) (Info, error) {
	info := Info{Version: InfoVersion, Root: g.Paths.Root, Libvirt: "ok", Families: []FamilyInfo{}}
	n, err := g.running(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return info, err
		}
		info.Libvirt = err.Error()
	}
	names, err := family.List(g.Paths)
	if err != nil {
		return info, err
	}
	for name := range n.families {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if only != "" {
		if !slices.Contains(names, only) {
			_, err := family.Load(g.Paths, only)
			return info, err
		}
		names = []string{only}
	}
	for _, name := range names {
		f := g.familyInfo(ctx, name, n)
		f.Filter = g.filterOf(ctx, f)
		info.Families = append(info.Families, f)
	}
	return info, nil
}

// filterOf is filterNow of a family whose guests, if any run, are to be under a policy.
func (g Guests) filterOf(ctx context.Context, f FamilyInfo) string {
	runs := slices.ContainsFunc(f.Targets, func(t TargetInfo) bool { return t.State.Active() })
	if s, err := g.readFilter(f.Name); f.Policy && runs && !s.ofPolicy() && (err == nil || errors.Is(err, fs.ErrNotExist)) {
		return FilterGone
	}
	return g.filterNow(ctx, f.Name)
}

// now is what libvirt says runs of this root.
type now struct {
	known    bool
	families map[string]bool
	domains  map[string]virt.Domain // by full id
	networks map[string]virt.Network
	usage    map[string]virt.Usage // by full id, of those that run
}

func (g Guests) running(ctx context.Context) (now, error) {
	n := now{families: map[string]bool{}, domains: map[string]virt.Domain{}, networks: map[string]virt.Network{}, usage: map[string]virt.Usage{}}
	d, err := g.Dial(ctx)
	if err != nil {
		return n, err
	}
	defer d.Close()
	domains, err := d.Domains(ctx)
	if err != nil {
		return n, err
	}
	networks, err := d.Networks(ctx)
	if err != nil {
		return n, err
	}
	n.known = true
	for _, dom := range domains {
		if dom.Owner.Root == g.root() {
			n.families[dom.Owner.Family] = true
			n.domains[dom.Name] = dom
			if u, err := d.Usage(ctx, dom); err == nil { // it may be gone by now
				n.usage[dom.Name] = u
			}
		}
	}
	for _, net := range networks {
		if net.Owner.Root == g.root() {
			n.families[net.Owner.Family] = true
			n.networks[net.Name] = net
		}
	}
	return n, nil
}

func (g Guests) familyInfo(ctx context.Context, name string, n now) FamilyInfo {
	out := FamilyInfo{Name: name, Targets: []TargetInfo{}, Networks: []NetworkInfo{}}
	f, err := family.Load(g.Paths, name)
	if err != nil {
		out.Fault = firstLine(err)
		f = &family.Family{Name: name}
	}
	out.Policy = f.Policy != nil
	seen := map[string]bool{}
	for _, t := range f.Targets {
		seen[t.FullID()] = true
		out.Targets = append(out.Targets, g.targetInfo(ctx, f, t, n))
	}
	for _, net := range f.Networks {
		seen[net.FullID] = true
		out.Networks = append(out.Networks, NetworkInfo{net.FullID, n.network(net.FullID)})
	}
	// What runs although the recipe does not know it, or not any more.
	for id, d := range n.domains {
		if d.Owner.Family == name && !seen[id] {
			out.Targets = append(out.Targets, TargetInfo{FullID: id, State: d.State, Image: g.imageInfo(id)})
		}
	}
	for id, net := range n.networks {
		if net.Owner.Family == name && !seen[id] {
			out.Networks = append(out.Networks, NetworkInfo{id, n.network(id)})
		}
	}
	slices.SortFunc(out.Targets, func(a, b TargetInfo) int { return strings.Compare(a.FullID, b.FullID) })
	slices.SortFunc(out.Networks, func(a, b NetworkInfo) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

func (g Guests) targetInfo(ctx context.Context, f *family.Family, t *family.Target, n now) TargetInfo {
	id := t.FullID()
	out := TargetInfo{
		FullID: id, Distro: t.Distro, Release: t.Release, Kernel: string(kernelMode(g.Paths, t)),
		Image: g.imageInfo(id), Optional: t.Optional, Brought: t.Imported, State: n.domain(id), User: t.User, Policy: policyOf(f, t),
	}
	if out.Kernel != string(t.Kernel) {
		out.RecipeKernel = string(t.Kernel)
	}
	if out.Image != nil {
		out.Image.Recipe = g.againstRecipe(ctx, t)
	}
	if t.HasSession() {
		out.Address, out.SSHPort = t.Addr.String(), t.SSHPort
	}
	if record, err := ReadImageRecord(g.Paths, id); err == nil {
		out.Version, out.Origin = record.KernelVersion, record.KernelOrigin
	}
	if file := consoleLog(g.Paths, id); exists(file) {
		out.Console = file
	}
	if d, ok := n.domains[id]; ok {
		if out.Image != nil && out.Image.Disk == 0 {
			out.Image.Disk = d.Mark.Disk
		}
		out.addGuest(d, n.usage[id])
		if d.Mark.Disposable {
			out.Written = written(g.Paths.Overlay(id))
		}
		out.Stale = d.State.Active() && d.Mark.Recipe != g.recipeHash(t)
	}
	return out
}

func (t *TargetInfo) addGuest(d virt.Domain, u virt.Usage) {
	t.Why, t.Disposable = d.Why, d.Mark.Disposable
	if !d.Mark.Started.IsZero() {
		t.Started = &d.Mark.Started
	}
	t.MemoryMiB, t.CPUs = u.MemoryKiB>>10, u.CPUs
	t.CPUSeconds = u.CPUTime.Round(100 * time.Millisecond).Seconds()
}

// imageInfo returns what a target's image is, nil when there is none. An image
// without a record of its making was brought, at the time it was last written.
func (g Guests) imageInfo(fullID string) *ImageInfo {
	file := g.Paths.Image(fullID)
	stat, err := os.Stat(file)
	if err != nil {
		return nil
	}
	out := &ImageInfo{File: file, Bytes: stat.Size(), Built: stat.ModTime().UTC().Truncate(time.Second), Recipe: RecipeUnknown}
	if disk, err := image.DiskBytes(file); err == nil { // it may be libvirt's user's own while the guest runs
		out.Disk = disk
	}
	if record, err := ReadImageRecord(g.Paths, fullID); err == nil {
		if !record.Built.IsZero() { // no image of meros's making
			out.Built = record.Built
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		g.Warn("%s: the record beside its image: %v", fullID, err)
	}
	return out
}

func (n now) domain(id string) virt.State {
	if !n.known {
		return virt.StateUnknown
	}
	if d, ok := n.domains[id]; ok {
		return d.State
	}
	return virt.StateOff
}

func (n now) network(id string) string {
	switch net, ok := n.networks[id]; {
	case !n.known:
		return "unknown"
	case ok && net.Active:
		return "up"
	}
	return "down"
}
