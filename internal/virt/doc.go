// Package virt starts and stops a family's domains and networks under libvirt,
// and edits their documents on the way there.
//
// Words: a document is libvirt's XML; a domain is libvirt's name for a running
// guest; an object is a domain or a network. Every object that meros makes is
// transient and carries its Owner in libvirt's own metadata, so that what runs
// is read from libvirt and never from a file of ours. An object without that
// mark, or with another root's, is somebody else's: it is looked at, never
// touched.
//
// A document is changed only where Guest and Bridge say so; elements that are not
// known here reach libvirt as they are. Whatever is changed because this host
// cannot do what the recipe asks for comes back as one line of warning.
//
// The package knows nothing of how an image was built, nor of what happens inside
// a guest.
package virt
