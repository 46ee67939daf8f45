package layout

// Hooked says that host hooks of a family have run whose counterparts have not.
func (p Paths) Hooked(family string) string { return p.join("data", "state", family+".hooked") }
