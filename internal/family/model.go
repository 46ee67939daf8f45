package family

import "net/netip"

// Family is a validated recipe. Every value in it has the form that its comment
// names: nothing after family checks again.
type Family struct {
	Name      string
	Dir       string                 // absolute path of conf/target/<name>
	Targets   []*Target              // by name
	Networks  []*Network             // by file name
	Hooks     map[HookPhase][]string // absolute paths of the programs that run on the host, in order
	Netfilter []string               // absolute paths of netfilter/*.nft, by name
	Policy    *Policy                `json:",omitempty"` // netfilter/policy.xml; nil if there is none
}

// Target returns the target of that name, or nil.
func (f *Family) Target(name string) *Target {
	for _, t := range f.Targets {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// KernelMode says where the kernel of a target comes from.
type KernelMode string

// The kernel modes of a build file. "yes", in older recipes, means KernelSource.
const (
	KernelSource   KernelMode = "source"   // built by meros
	KernelDistro   KernelMode = "distro"   // a package of the target's own distribution
	KernelPrebuilt KernelMode = "prebuilt" // downloaded
	KernelNone     KernelMode = "no"       // the image's own boot loader, or none
)

// Init is the program that starts everything else in an Alpine guest.
type Init string

// The init systems of Alpine targets.
const (
	InitOpenRC  Init = "openrc"  // Alpine's own, with its services
	InitBusybox Init = "busybox" // busybox init alone, with an inittab
)

// Target is one virtual machine of a family.
type Target struct {
	Family string
	Name   string

	// What the build file says. Imported targets have no build file: the user
	// brings the image.
	Imported  bool
	BuildFile string     // absolute path of build/<name>.xml
	Rootfs    bool       // whether the rootfs is to be built
	Optional  bool       `json:",omitempty"` // left out where its mirror cannot be reached
	Kernel    KernelMode // KernelNone when imported
	Prebuilt  Prebuilt   // of KernelPrebuilt
	Distro    string     // debian, ubuntu, devuan, kali or alpine; "" when imported
	Release   string     // suite or branch; "" is the distribution's stable one
	Arch      string     // in the distribution's words; "" is the host's
	Mirror    string     // http, https or file URL; "" is the host's own configuration, else the tool's default
	Security  string     `json:",omitempty"` // URL of a Debian target's security archive; "" is the host's own configuration
	Bootstrap string     // mmdebstrap or debootstrap; "" is the best one present
	Init      Init       // of an Alpine target; "" for the others
	Packages  []string   // more than the base of the distribution
	Hostname  string     // one label; the target's name, with dashes for _, unless given
	FreeMB    int        // MiB that are free for the user in a fresh image; 0 when imported
	Compress  bool       `json:",omitempty"` // whether what the image holds from the start is compressed

	// Session: User is "" and Addr invalid when the target has none.
	User      string     // may be root: older recipes log in to gateways so
	Addr      netip.Addr // the guest's address; no other target of the family has it
	Gateway   netip.Addr // network_addr: the host's or gateway's address beside it, or the network's own
	SSHPort   int        // 22 unless given
	SharedDir string     // what push and pull work on, relative to the user's home: mos-shared unless given

	// Windows of programs that are run on the host's screen.
	Border   string   // trust colour: #rrggbb or a name of BorderColours; "" is one made of the full id
	RunAllow []string // what windows may do on the host more than show themselves: words of RunFeatures

	// Files of the recipe, absolute, in the order of use. Includes holds
	// includes.chroot folders, those of common first; so does ChrootHooks, sorted by
	// name within each; Pkg is the family's pkg/ folder or "".
	Includes    []string
	ChrootHooks []string
	Pkg         string

	After []string `json:",omitempty"` // names of targets that are started before this one

	DomainFile string // absolute path of the libvirt domain document; "" if none
}

// FullID is <family>-<target>, the name of the target everywhere outside its
// family.
func (t *Target) FullID() string { return t.Family + "-" + t.Name }

// HasSession reports whether the recipe names a user and an address to log in to.
func (t *Target) HasSession() bool { return t.User != "" && t.Addr.IsValid() }

// Network is a libvirt network document of a family.
type Network struct {
	FullID string // for net_<x>.xml mos_<x>, or <x> when that begins with the family's name; else <family>_<file name>
	File   string // absolute path
}
