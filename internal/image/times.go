package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
)

// inodes gives the inodes of a fresh ext4 file system times that depend on the
// files alone. mke2fs takes over the host's: when each inode was last changed and
// read there, which is other at every build.
//
// The offsets are those of ext4's disk layout (Linux's
// Documentation/filesystems/ext4); the file system is one that mkfs made.
type inodes struct {
	file   *os.File
	offset int64  // of the file system in file
	seed   uint32 // of its checksums: made of its UUID
	latest int64  // files that are younger get this time, in seconds since 1970; 0: none do

	perGroup, groups int64
	descriptors      []byte
}

// descriptorSize is that of a group's descriptor with the feature 64bit.
const descriptorSize = 64

// groupUninit is the flag of a group none of whose inodes was ever used.
const groupUninit = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum goes on with a CRC-32C as the kernel keeps it: without the final
// inversion that Go's has.
func checksum(crc uint32, data []byte) uint32 { return ^crc32.Update(^crc, castagnoli, data) }

// setTimes makes the times of all inodes those of the files' last change.
func setTimes(f *os.File, offset, latest int64) error {
	n := &inodes{file: f, offset: offset, latest: latest}
	if err := n.read(); err != nil {
		return fmt.Errorf("read the file system's tables: %w", err)
	}
	for group := range n.groups {
		if err := n.group(group); err != nil {
			return fmt.Errorf("set the times of the file system: %w", err)
		}
	}
	return nil
}

func (n *inodes) read() error {
	var super [1024]byte
	if _, err := n.file.ReadAt(super[:], n.offset+1024); err != nil {
		return err
	}
	le := binary.LittleEndian
	if le.Uint16(super[0x38:]) != 0xef53 || le.Uint16(super[0x58:]) != inodeSize || le.Uint16(super[0xfe:]) != descriptorSize {
		return errors.New("no file system of the expected form")
	}
	n.seed = checksum(^uint32(0), super[0x68:0x78])
	n.perGroup = int64(le.Uint32(super[0x28:]))
	n.groups = int64(le.Uint32(super[0:])) / n.perGroup
	n.descriptors = make([]byte, n.groups*descriptorSize)
	_, err := n.file.ReadAt(n.descriptors, n.offset+blockSize)
	return err
}

// group does one group's inodes. Blocks without a used one are left alone: they
// are holes in the image.
func (n *inodes) group(group int64) error {
	le := binary.LittleEndian
	d := n.descriptors[group*descriptorSize:]
	if le.Uint16(d[0x12:])&groupUninit != 0 {
		return nil
	}
	table := n.table(group)
	unused := int64(le.Uint16(d[0x1c:])) | int64(le.Uint16(d[0x32:]))<<16
	used := (n.perGroup - unused) * inodeSize
	block := make([]byte, blockSize)
	for at := int64(0); at < used; at += blockSize {
		if _, err := n.file.ReadAt(block, n.offset+table+at); err != nil {
			return err
		}
		changed := false
		for i := int64(0); i < blockSize; i += inodeSize {
			number := group*n.perGroup + (at+i)/inodeSize + 1
			if inode := block[i : i+inodeSize]; le.Uint16(inode) != 0 {
				n.inode(inode, uint32(number))
				changed = true
			}
		}
		if !changed {
			continue
		}
		if _, err := n.file.WriteAt(block, n.offset+table+at); err != nil {
			return err
		}
	}
	return nil
}

// table is where a group has its inodes, in bytes of the file system.
func (n *inodes) table(group int64) int64 {
	le := binary.LittleEndian
	d := n.descriptors[group*descriptorSize:]
	return (int64(le.Uint32(d[8:])) | int64(le.Uint32(d[0x28:]))<<32) * blockSize
}

// Where an inode has its times, each in 32 bits with as many more for nanoseconds
// and the years after 2038.
const (
	inodeATime, inodeCTime, inodeMTime, inodeCrTime                     = 0x08, 0x0c, 0x10, 0x90
	inodeCTimeExtra, inodeMTimeExtra, inodeATimeExtra, inodeCrTimeExtra = 0x84, 0x88, 0x8c, 0x94
	inodeGeneration, inodeSumLow, inodeSumHigh                          = 0x64, 0x7c, 0x82
)

func (n *inodes) inode(b []byte, number uint32) {
	le := binary.LittleEndian
	low, extra := le.Uint32(b[inodeMTime:]), le.Uint32(b[inodeMTimeExtra:])
	if t := int64(int32(low)) + int64(extra&3)<<32; n.latest != 0 && t >= n.latest {
		low, extra = uint32(n.latest), uint32((n.latest-int64(int32(n.latest)))>>32)&3
	}
	for at, extraAt := range map[int]int{inodeATime: inodeATimeExtra, inodeCTime: inodeCTimeExtra, inodeMTime: inodeMTimeExtra, inodeCrTime: inodeCrTimeExtra} {
		le.PutUint32(b[at:], low)
		le.PutUint32(b[extraAt:], extra)
	}
	n.sum(b, number)
}

// sum writes an inode's checksum.
func (n *inodes) sum(b []byte, number uint32) {
	le := binary.LittleEndian
	le.PutUint16(b[inodeSumLow:], 0)
	le.PutUint16(b[inodeSumHigh:], 0)
	sum := checksum(checksum(n.seed, inodeHead(b, number)), b)
	le.PutUint16(b[inodeSumLow:], uint16(sum))
	le.PutUint16(b[inodeSumHigh:], uint16(sum>>16))
}

// inodeHead is what the checksums of an inode, and of a folder's blocks, begin with.
func inodeHead(b []byte, number uint32) []byte {
	head := binary.LittleEndian.AppendUint32(nil, number)
	return append(head, b[inodeGeneration:inodeGeneration+4]...)
}
