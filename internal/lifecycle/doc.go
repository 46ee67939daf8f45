// Package lifecycle builds, starts and stops whole families. It is the only
// package that joins engines: what is done in which order, and what is undone
// when a step fails, stands here.
//
// A Builder makes images, Guests runs them. Guests keeps no record of what runs:
// it asks libvirt, whose objects carry the family, the target and the root they
// belong to. So a shutdown finds all of it, whatever became of the meros that
// started it or of the recipe.
package lifecycle
