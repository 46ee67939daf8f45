// Package tarball unpacks archives that others have made, and of a .deb what is a
// kernel. Nothing in them leads out of the folder that they are unpacked into.
package tarball
