// Package rootfs turns a target's recipe into a tree of files: it bootstraps
// the distribution, installs packages, lays the recipe's files over it, runs its
// hooks in the chroot, and adds what makes this target itself (keys, names).
//
// Plan says which stages there are and what each reads; Steps are the bodies of
// the stages, which run in a sandbox. The package knows nothing of disk images,
// libvirt or SSH sessions.
package rootfs
