package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"meros/internal/hint"
)

// Node is a device node that a tree should have.
type Node struct {
	Path         string // in the tree, without a leading slash
	Block        bool   // else it is a character device
	Major, Minor uint32
}

// mark ends a stand-in. It is of chance, so that no other file is like it.
const mark = "6f1c0d6be5a94b3f9a3d21b7c8e4705a"

// text is the content of a stand-in: as long for one node as for any other.
func (n Node) text() string {
	kind := 'c'
	if n.Block {
		kind = 'b'
	}
	return fmt.Sprintf("meros lays a device node here: %c %010d %010d\n%s\n", kind, n.Major, n.Minor, mark)
}

// parse is what text has made.
func parse(text string) (n Node, ok bool) {
	var kind rune
	if _, err := fmt.Sscanf(text, "meros lays a device node here: %c %d %d\n", &kind, &n.Major, &n.Minor); err != nil {
		return n, false
	}
	n.Block = kind == 'b'
	return n, n.text() == text
}

// attribute of a stand-in tells it from other files after something has written to it.
const attribute = "user.meros.device"

// Make makes the device node that st describes at a path, with no more of st than its
// kind and number, or a stand-in for it where this process may not.
func Make(at string, st unix.Stat_t) error {
	if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
		return hint.Add(errors.New("it is the character device 0:0, by which overlays know a file that was removed"), "leave it out")
	}
	err := unix.Mknod(at, st.Mode, int(st.Rdev))
	if errors.Is(err, unix.EPERM) {
		return StandIn(at, st)
	}
	if err != nil {
		return &fs.PathError{Op: "mknod", Path: at, Err: err}
	}
	return nil
}

// StandIn makes a stand-in for the device node that st describes.
func StandIn(at string, st unix.Stat_t) error {
	n := Node{Block: st.Mode&unix.S_IFMT == unix.S_IFBLK, Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)}
	f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(n.text())
	if err == nil {
		err = unix.Fsetxattr(int(f.Fd()), attribute, []byte("1"), 0)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("lay a stand-in for a device node at %s: %w", at, err)
	}
	return nil
}
