// Package conf holds the families that ship with meros, for a binary that is
// installed without them.
package conf

import "embed"

// Families are the recipes below target/, one folder each. Modes are lost in it:
// what begins as a program does is to be given its run bit back.
//
//go:embed all:target
var Families embed.FS
