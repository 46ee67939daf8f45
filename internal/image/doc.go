// Package image packs a rootfs into a disk image that a virtual machine boots:
// GPT, one ext4 partition, qcow2.
//
// mke2fs writes the file system straight to where it lies inside the qcow2
// file, so every byte is written once: no loop device, no mount, no appliance,
// no raw copy to convert. The package knows nothing of recipes or libvirt.
package image
