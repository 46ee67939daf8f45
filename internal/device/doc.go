// Package device lets a tree hold device nodes that its builder may not make:
// mknod(2) gives none to the root of a user namespace.
//
// A node that cannot be made is a stand-in, until the tree is packed: a small
// file with the node's owner, mode, times and number. So whatever a hook does to it
// (moves, copies, links, removes it, changes its owner or mode) is done to the node.
// Take ends that: it leaves a socket at each stand-in's place, which an image's file
// system keeps as it keeps a device node, and tells what each is to become. The
// package knows nothing of images.
package device
