package layout

// Filter says which packet-filter rules of a family were loaded.
func (p Paths) Filter(family string) string { return p.join("data", "state", family+".filter.json") }

// HostWide is the root of what all of meros on this host shares until it boots
// again: /run is empty then (hier(7)), as is what is noted there.
func HostWide() Paths { return Paths{Root: "/run/meros"} }

// Forwarding says how the host forwarded before the first family needed it to.
func (p Paths) Forwarding() string { return p.join("data", "state", "forwarding.json") }
