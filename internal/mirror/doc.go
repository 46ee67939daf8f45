// Package mirror keeps what package managers download, for the next build and
// for builds without a network: an HTTP proxy on the loopback that stores what
// it hands on. What is at an https address it gets by https itself, for programs
// that ask it by http (Plain).
//
// It trusts nobody with it: apt and apk check every file against signed indexes
// whenever they use it, and what they find damaged is dropped, or fetched anew when
// they ask again. A mirror that falls silent is given up. The package knows nothing of what the files are.
package mirror
