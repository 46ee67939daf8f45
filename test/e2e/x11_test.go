package e2e

import (
	le "encoding/binary"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
)

// closeWindow asks a window to close as a window manager does for its person:
// with WM_DELETE_WINDOW (ICCCM 4.2.8.1). xdotool of Debian 12 has no word for it.
func closeWindow(t *testing.T, s screen, id string) {
	t.Helper()
	window, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", "/tmp/.X11-unix/X"+strings.TrimPrefix(s.display, ":"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	x := xClient{t, conn}
	x.send([]byte{'l', 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	head := x.receive(8)
	if head[0] != 1 {
		t.Fatal("the X server refuses the connection")
	}
	x.receive(4 * int(le.LittleEndian.Uint16(head[6:])))
	protocols, remove := x.atom("WM_PROTOCOLS"), x.atom("WM_DELETE_WINDOW")
	request := []byte{25, 0, 11, 0} // SendEvent: 44 bytes
	for _, word := range []uint32{uint32(window), 0, 33 | 32<<8, uint32(window), protocols, remove, 0, 0, 0, 0} {
		request = le.LittleEndian.AppendUint32(request, word)
	}
	x.send(request)
	x.atom("WM_PROTOCOLS") // its answer says that the event was taken too
}

// xClient speaks the X11 protocol, little-endian.
type xClient struct {
	t    *testing.T
	conn net.Conn
}

func (x xClient) send(request []byte) {
	x.t.Helper()
	if _, err := x.conn.Write(request); err != nil {
		x.t.Fatal(err)
	}
}

func (x xClient) receive(n int) []byte {
	x.t.Helper()
	answer := make([]byte, n)
	if _, err := io.ReadFull(x.conn, answer); err != nil {
		x.t.Fatal(err)
	}
	return answer
}

// atom is InternAtom.
func (x xClient) atom(name string) uint32 {
	x.t.Helper()
	padded := name + strings.Repeat("\x00", (4-len(name)%4)%4)
	request := le.LittleEndian.AppendUint16([]byte{16, 0}, uint16(2+len(padded)/4))
	request = le.LittleEndian.AppendUint16(request, uint16(len(name)))
	request = append(append(request, 0, 0), padded...)
	x.send(request)
	answer := x.receive(32)
	if answer[0] != 1 {
		x.t.Fatalf("the X server answers %d to InternAtom, want a reply", answer[0])
	}
	return le.LittleEndian.Uint32(answer[8:])
}
