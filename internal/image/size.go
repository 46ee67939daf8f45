package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	sectorSize = 512
	blockSize  = 4096
	inodeSize  = 256
	// partitionStart leaves the first MiB to the partition table, as sfdisk(8) does.
	partitionStart = 1 << 20
	// backupGPT holds a GPT: header and 128 entries of 128 bytes take 33 or 34
	// sectors (UEFI Specification, 5.3). Rounded up to whole blocks.
	backupGPT = 20 << 10
	// A journal of 16 MiB is enough for a guest's root and far below mke2fs's
	// default; 4 MiB is the smallest there is (1024 blocks), for small images.
	journalMB, smallJournalMB = 16, 4
	// smallest is the size in blocks below which the journal is a small one.
	smallest = 128 << 20 / blockSize
	// bytesPerInode of free space, as mke2fs.conf(5) has it by default.
	bytesPerInode = 16 << 10
	// blocksPerGroup is one bitmap block's worth of blocks (ext4's disk layout).
	blocksPerGroup = blockSize * 8
)

// content is what a tree takes up in ext4.
type content struct {
	blocks int64
	inodes int64
}

// measure adds up a tree as mke2fs will write it. Files with several names
// count once; holes count nothing. How much a folder takes up where the tree lies
// has no say: it may be large of names that are gone, or small of those in layers below.
func measure(root string) (content, error) {
	var c content
	seen := map[[2]uint64]bool{}
	folders := map[string]*names{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if in := folders[filepath.Dir(path)]; in != nil {
			in.add(d.Name())
		}
		if d.IsDir() {
			folders[path] = newNames()
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		if st.Nlink > 1 && !d.IsDir() {
			id := [2]uint64{st.Dev, st.Ino}
			if seen[id] {
				return nil
			}
			seen[id] = true
		}
		c.inodes++
		c.blocks += blocksOf(st)
		return nil
	})
	for _, f := range folders {
		c.blocks += f.blocks + f.blocks/64 // and the extents of a torn one
	}
	return c, err
}

// names are those in a folder, of which mke2fs fills one block after the other
// (ext4's disk layout, "linear directories").
type names struct{ blocks, left int64 }

// newNames is a folder of "." and "..", of 12 bytes each.
func newNames() *names { return &names{1, blockSize - dirTailSize - 24} }

func (n *names) add(name string) {
	size := ceil(entryName+int64(len(name)), 4) * 4
	if n.left < size {
		n.blocks, n.left = n.blocks+1, blockSize-dirTailSize
	}
	n.left -= size
}

// blocksOf is what a file takes up; a folder's blocks are counted by its names.
func blocksOf(st unix.Stat_t) int64 {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		if st.Size < 60 {
			return 0 // kept in the inode
		}
		return 1
	case unix.S_IFREG:
		// An extent tree outgrows the inode only in large or torn files.
		return min(ceil(st.Size, blockSize), ceil(st.Blocks*512, blockSize)+1) + st.Size/(64<<20)
	}
	return 0
}

func ceil(n, unit int64) int64 { return (n + unit - 1) / unit }

// geometry is the size of a file system.
type geometry struct {
	blocks    int64 // of the whole file system
	inodes    int64
	journalMB int64
}

func (g geometry) diskBytes() int64 {
	return ceil(partitionStart+g.blocks*blockSize+backupGPT, 1<<20) << 20
}

// geometry sizes a file system that holds c and has freeMB to spare.
func (c content) geometry(freeMB int) geometry {
	free := int64(freeMB) << 20 / blockSize
	g := geometry{inodes: c.inodes + int64(freeMB)<<20/bytesPerInode + 1024, journalMB: journalMB}
	if c.blocks+free < smallest {
		g.journalMB = smallJournalMB
	}
	used := c.blocks + c.blocks/400 + g.journalMB<<20/blockSize + 16
	for range 4 { // each round adds the metadata of what the last one added
		groups := ceil(max(g.blocks, used+free), blocksPerGroup)
		perGroup := 2 + ceil(ceil(g.inodes, groups)+8, blockSize/inodeSize)
		descriptors := ceil(groups*64, blockSize) + 1
		g.blocks = used + free + groups*perGroup + descriptors*sparseSupers(groups) + reservedBlocks(g.blocks)
	}
	return g
}

// sparseSupers is how many groups hold a copy of the superblock: 0, 1 and the
// powers of 3, 5 and 7.
func sparseSupers(groups int64) int64 {
	n := min(groups, 2)
	for _, base := range []int64{3, 5, 7} {
		for p := base; p < groups; p *= base {
			n++
		}
	}
	return n
}

// reservedBlocks is what the kernel keeps to itself and statfs(2) leaves out of
// the available blocks: 2 %, at most 4096 (ext4_calculate_resv_clusters).
func reservedBlocks(blocks int64) int64 { return min(blocks/50, 4096) }

// freeShort returns how many blocks the new file system has less than asked
// for, by its superblock (ext4's disk layout: 0x0c and 0x158 hold the free ones).
func freeShort(out string, g geometry, freeMB int) (int64, error) {
	q, err := readHeader(out)
	if err != nil {
		return 0, err
	}
	f, err := os.Open(out)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var super [1024]byte
	if _, err := f.ReadAt(super[:], q.dataOffset+partitionStart+1024); err != nil {
		return 0, fmt.Errorf("read the superblock: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint16(super[0x38:]) != 0xef53 {
		return 0, errors.New("read the superblock: no ext4 file system")
	}
	free := int64(le.Uint32(super[0x0c:])) | int64(le.Uint32(super[0x158:]))<<32
	return int64(freeMB)<<20/blockSize + reservedBlocks(g.blocks) - free, nil
}
