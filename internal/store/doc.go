// Package store keeps the results of build stages, each a layer under a key
// that is a hash of all that the stage reads.
//
// A layer is a folder: fs/ holds files of the rootfs (an overlay over the layers
// below it), out/ what is not part of the rootfs, such as a kernel. It appears
// by rename when whole and never changes afterwards. The store knows nothing of
// what the stages do.
package store
