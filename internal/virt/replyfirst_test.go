package virt

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
)

func packet(kind, serial uint32, payload string) []byte {
	var p []byte
	for _, word := range []uint32{headerBytes + uint32(len(payload)), 0x20008086, 1, 201, kind, serial, 0} {
		p = binary.BigEndian.AppendUint32(p, word)
	}
	return append(p, payload...)
}

func TestReplyFirst(t *testing.T) {
	const event = 2
	early, late := packet(typeStream, 3, "early"), packet(typeStream, 3, "late")
	reply, other, note := packet(typeReply, 3, ""), packet(typeReply, 4, "other"), packet(event, 9, "event")
	for name, c := range map[string]struct{ sent, want [][]byte }{
		"in order":           {[][]byte{reply, early, late}, [][]byte{reply, early, late}},
		"stream before":      {[][]byte{early, reply, late}, [][]byte{reply, early, late}},
		"two before":         {[][]byte{early, late, reply}, [][]byte{reply, early, late}},
		"others pass":        {[][]byte{early, note, other, reply, late}, [][]byte{note, other, reply, early, late}},
		"without its reply":  {[][]byte{early, other}, [][]byte{other}},
		"nothing":            {nil, nil},
		"cut":                {[][]byte{reply, early[:5]}, [][]byte{reply}},
		"a packet too short": {[][]byte{reply, {0, 0, 0, 27}}, [][]byte{reply}},
		"a packet too long":  {[][]byte{reply, {0xff, 0, 0, 0}}, [][]byte{reply}},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			go func() {
				_, _ = far.Write(bytes.Join(c.sent, nil))
				_ = far.Close()
			}()
			got, err := io.ReadAll(iotest.OneByteReader(newReplyFirst(near)))
			if !bytes.Equal(got, bytes.Join(c.want, nil)) {
				t.Errorf("read %q, want %q", got, c.want)
			}
			if strings.HasPrefix(name, "a packet") != (err != nil && strings.Contains(err.Error(), "bytes")) {
				t.Errorf("error %v", err)
			}
		})
	}
}
