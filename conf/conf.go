// Package conf holds the families that ship with meros and what their kernel is
// configured by, for a binary that is installed without them.
package conf

import "embed"

// Families are the recipes below target/, one folder each. Modes are lost in it:
// what begins as a program does is to be given its run bit back.
//
//go:embed all:target
var Families embed.FS

// Kernel are the files below kernel/.
//
//go:embed kernel
var Kernel embed.FS
