package virt

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
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

	aclVersion = 2
	aclNobody  = 0xffffffff // the id of entries that need none
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

// LetRead gives the user leave to read a file, without taking the file from its
// owner. KeepFrom takes that back. The error wraps errors.ErrUnsupported where the
// file has a list of its own, or its file system has none.
func (q QEMUUser) LetRead(file string) error {
	return withFile(file, func(f *os.File, info fs.FileInfo) error {
		if q.may(file, info, bitRead) {
			return nil
		}
		if readACL(file) != nil {
			return errors.ErrUnsupported
		}
		return unix.Fsetxattr(int(f.Fd()), aclXattr, writeACL(q.readers(uint16(info.Mode().Perm()))), 0)
	})
}

// KeepFrom undoes LetRead. A list of anybody else's making is left as it is.
func (q QEMUUser) KeepFrom(file string) error {
	return withFile(file, func(f *os.File, info fs.FileInfo) error {
		entries := readACL(file)
		at := slices.IndexFunc(entries, func(e aclEntry) bool { return e.tag == aclGrpObj })
		if at < 0 {
			return nil
		}
		// With a list, what stat(2) shows of the group is the list's mask.
		mode := info.Mode().Perm()&^0o070 | fs.FileMode(entries[at].perm)<<3
		if !slices.Equal(entries, q.readers(uint16(mode))) {
			return nil
		}
		return errors.Join(unix.Fremovexattr(int(f.Fd()), aclXattr), f.Chmod(mode))
	})
}

// readers is a file's mode as a list in which the user may read too.
func (q QEMUUser) readers(perm uint16) []aclEntry {
	return []aclEntry{
		{aclUserObj, perm >> 6 & 7, aclNobody},
		{aclUser, bitRead, uint32(q.UID)},
		{aclGrpObj, perm >> 3 & 7, aclNobody},
		{aclMask, perm>>3&7 | bitRead, aclNobody},
		{aclOther, perm & 7, aclNobody},
	}
}

func writeACL(entries []aclEntry) []byte {
	raw := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range entries {
		raw = binary.LittleEndian.AppendUint16(raw, e.tag)
		raw = binary.LittleEndian.AppendUint16(raw, e.perm)
		raw = binary.LittleEndian.AppendUint32(raw, e.id)
	}
	return raw
}

// withFile works on an open file: its name may lie in a folder of somebody else's.
func withFile(file string, work func(*os.File, fs.FileInfo) error) error {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return work(f, info)
}
