// Package layout spells every path under conf/ and data/, and nothing else does.
// It also checks the identifiers that paths are made of, writes files so that
// they are whole or absent, gives what it makes to the person behind sudo, and
// holds a family's lock.
//
// It knows no family's content and no program of the host.
package layout
