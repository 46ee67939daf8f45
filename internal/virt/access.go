package virt

import (
	"encoding/binary"
	"io/fs"
	"slices"
	"syscall"
)

// The entries of a POSIX access control list as the kernel hands them out
// (linux/posix_acl_xattr.h): a version of four bytes, then eight bytes each.
const (
	aclXattr   = "system.posix_acl_access"
	aclUserObj = 0x01
	aclUser    = 0x02
	aclGrpObj  = 0x04
	aclGroup   = 0x08
	aclMask    = 0x10
	aclOther   = 0x20
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// may reports whether a file's mode and access control list give the user these
// bits, as acl(5) has it.
func (q QEMUUser) may(path string, info fs.FileInfo, bits uint16) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if q.UID == 0 || !ok {
		return true
	}
	entries := readACL(path)
	if entries == nil {
		perm := uint16(info.Mode().Perm())
		entries = []aclEntry{
			{tag: aclUserObj, perm: perm >> 6 & 7},
			{tag: aclGrpObj, perm: perm >> 3 & 7},
			{tag: aclOther, perm: perm & 7},
		}
	}
	return q.allowed(entries, stat.Uid, stat.Gid, bits)
}

func (q QEMUUser) allowed(entries []aclEntry, uid, gid uint32, bits uint16) bool {
	mask, other := uint16(7), uint16(0)
	for _, e := range entries {
		switch e.tag {
		case aclMask:
			mask = e.perm
		case aclOther:
			other = e.perm
		}
	}
	for _, e := range entries {
		switch {
		case e.tag == aclUserObj && int(uid) == q.UID:
			return e.perm&bits == bits
		case e.tag == aclUser && int(e.id) == q.UID:
			return e.perm&mask&bits == bits
		}
	}
	member := false
	for _, e := range entries {
		id := e.id
		if e.tag == aclGrpObj {
			id = gid
		}
		if (e.tag == aclGrpObj || e.tag == aclGroup) && slices.Contains(q.Groups, int(id)) {
			if member = true; e.perm&mask&bits == bits {
				return true
			}
		}
	}
	return !member && other&bits == bits
}

// readACL returns a file's access control list, nil where it has none.
func readACL(path string) []aclEntry {
	raw := make([]byte, 4<<10)
	n, err := syscall.Getxattr(path, aclXattr, raw)
	if err != nil || n < 4 {
		return nil
	}
	var entries []aclEntry
	for raw = raw[4:n]; len(raw) >= 8; raw = raw[8:] {
		entries = append(entries, aclEntry{
			tag:  binary.LittleEndian.Uint16(raw),
			perm: binary.LittleEndian.Uint16(raw[2:]),
			id:   binary.LittleEndian.Uint32(raw[4:]),
		})
	}
	return entries
}
