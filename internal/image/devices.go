package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"meros/internal/device"
)

// Of ext4's disk layout (Linux's Documentation/filesystems/ext4).
const (
	rootInode    = 2
	inodeBlock   = 0x28 // where an inode has its extents, or a device's number
	inodeBlocks  = 60   // how many bytes these are
	extentMagic  = 0xf30a
	extentSize   = 12 // of their header too
	dirTailSize  = 12 // of what ends a folder's block, its checksum last
	dirTailMark  = 0xde
	entryName    = 8 // where an entry has its name; what stands before is its length and kind
	entryChar    = 3
	entryBlock   = 4
	deepestDepth = 5 // of a tree of extents
)

// setDevices makes device nodes of the sockets of a fresh file system that stand
// for them. To mke2fs both are the same: an inode without blocks. What differs is
// the kind, in the inode and beside each of its names, and the device's number.
func setDevices(f *os.File, offset int64, nodes []device.Node) error {
	if len(nodes) == 0 {
		return nil
	}
	n := &inodes{file: f, offset: offset}
	if err := n.read(); err != nil {
		return fmt.Errorf("read the file system's tables: %w", err)
	}
	for _, d := range nodes {
		if err := n.device(d); err != nil {
			return fmt.Errorf("make the device node %q: %w", d.Path, err)
		}
	}
	return nil
}

func (n *inodes) device(d device.Node) error {
	number := uint32(rootInode)
	var e entry
	for name := range strings.SplitSeq(d.Path, "/") {
		var err error
		if e, err = n.lookup(number, name); err != nil {
			return err
		}
		number = e.inode()
	}
	b, at, err := n.load(number)
	if err != nil {
		return err
	}
	kind, named := uint16(unix.S_IFCHR), byte(entryChar)
	if d.Block {
		kind, named = unix.S_IFBLK, entryBlock
	}
	le := binary.LittleEndian
	mode := le.Uint16(b)
	if now := mode & unix.S_IFMT; now != unix.S_IFSOCK && now != kind { // kind: under another name
		return fmt.Errorf("inode %d has mode %o, want a socket's", number, mode)
	}
	le.PutUint16(b, mode&^unix.S_IFMT|kind)
	if d.Major < 256 && d.Minor < 256 {
		le.PutUint32(b[inodeBlock:], d.Major<<8|d.Minor)
	} else {
		le.PutUint32(b[inodeBlock+4:], d.Minor&0xff|d.Major<<8|d.Minor&^0xff<<12)
	}
	n.sum(b, number)
	if _, err := n.file.WriteAt(b, at); err != nil {
		return err
	}
	return n.setKind(e, named)
}

// load reads an inode and tells where in the file it is.
func (n *inodes) load(number uint32) (b []byte, at int64, err error) {
	group, index := (int64(number)-1)/n.perGroup, (int64(number)-1)%n.perGroup
	if number == 0 || group >= n.groups {
		return nil, 0, fmt.Errorf("no inode %d", number)
	}
	at = n.offset + n.table(group) + index*inodeSize
	b = make([]byte, inodeSize)
	_, err = n.file.ReadAt(b, at)
	return b, at, err
}

// entry is a name in a folder.
type entry struct {
	dir     uint32 // the folder's inode
	dirHead []byte // what its checksums begin with
	block   []byte // of the folder
	blockAt int64  // in the file
	at      int    // in block
}

func (e entry) inode() uint32 { return binary.LittleEndian.Uint32(e.block[e.at:]) }

// lookup finds a name in a folder.
func (n *inodes) lookup(dir uint32, name string) (entry, error) {
	b, _, err := n.load(dir)
	if err != nil {
		return entry{}, err
	}
	if mode := binary.LittleEndian.Uint16(b); mode&unix.S_IFMT != unix.S_IFDIR {
		return entry{}, fmt.Errorf("inode %d has mode %o, want a folder's", dir, mode)
	}
	blocks, err := n.extents(b[inodeBlock:inodeBlock+inodeBlocks], deepestDepth)
	if err != nil {
		return entry{}, fmt.Errorf("the folder's inode %d: %w", dir, err)
	}
	e := entry{dir: dir, dirHead: inodeHead(b, dir), block: make([]byte, blockSize)}
	for _, block := range blocks {
		e.blockAt = n.offset + block*blockSize
		if _, err := n.file.ReadAt(e.block, e.blockAt); err != nil {
			return entry{}, err
		}
		if e.at = find(e.block, name); e.at >= 0 {
			return e, nil
		}
	}
	return entry{}, fmt.Errorf("the folder's inode %d has no entry %q", dir, name)
}

// find returns where a folder's block has an entry of that name; -1: it has none.
func find(block []byte, name string) int {
	le := binary.LittleEndian
	for at := 0; at+entryName <= len(block); {
		length := int(le.Uint16(block[at+4:]))
		nameEnd := at + entryName + int(block[at+6])
		if length < entryName || at+length > len(block) || nameEnd > at+length {
			break
		}
		if le.Uint32(block[at:]) != 0 && string(block[at+entryName:nameEnd]) == name {
			return at
		}
		at += length
	}
	return -1
}

// setKind writes of what kind the file of an entry is.
func (n *inodes) setKind(e entry, kind byte) error {
	le := binary.LittleEndian
	tail := e.block[blockSize-dirTailSize:]
	if !bytes.Equal(tail[:8], []byte{0, 0, 0, 0, dirTailSize, 0, 0, dirTailMark}) {
		return fmt.Errorf("a block of the folder's inode %d has no checksum", e.dir)
	}
	e.block[e.at+7] = kind
	le.PutUint32(tail[8:], checksum(checksum(n.seed, e.dirHead), e.block[:blockSize-dirTailSize]))
	_, err := n.file.WriteAt(e.block, e.blockAt)
	return err
}

// extents lists the blocks of a tree of extents, whose node is b.
func (n *inodes) extents(b []byte, deepest int) ([]int64, error) {
	le := binary.LittleEndian
	entries, depth := int(le.Uint16(b[2:])), int(le.Uint16(b[6:]))
	if le.Uint16(b) != extentMagic || depth > deepest || (entries+1)*extentSize > len(b) {
		return nil, fmt.Errorf("no extents of the expected form")
	}
	var blocks []int64
	for i := 1; i <= entries; i++ {
		x := b[i*extentSize:]
		if depth == 0 {
			first := int64(le.Uint16(x[6:]))<<32 | int64(le.Uint32(x[8:]))
			for k := range int64(le.Uint16(x[4:])) {
				blocks = append(blocks, first+k)
			}
			continue
		}
		node := make([]byte, blockSize)
		at := int64(le.Uint16(x[8:]))<<32 | int64(le.Uint32(x[4:]))
		if _, err := n.file.ReadAt(node, n.offset+at*blockSize); err != nil {
			return nil, err
		}
		below, err := n.extents(node, depth-1)
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, below...)
	}
	return blocks, nil
}
