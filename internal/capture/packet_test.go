package capture

import (
	"encoding/hex"
	"strings"
	"testing"
)

func bytesOf(t *testing.T, words string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(words), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	macs = "525400000002 525400000001 "
	ip4  = "0800 4500 %LEN 4242 0000 40 %PROTO 0000 0a3e0102 cb007107 "
)

func four(length, proto string) string {
	return macs + strings.NewReplacer("%LEN", length, "%PROTO", proto).Replace(ip4)
}

func TestDecode(t *testing.T) {
	for _, c := range []struct{ frame, want string }{
		{four("0028", "06") + "9c40 0050 000003e8 00000000 5002 2000 0000 0000", "52:54:00:00:00:01 > 52:54:00:00:00:02, IP 10.62.1.2:40000 > 203.0.113.7:80: TCP [S]"},
		// What pads a short frame is none of the packet's.
		{four("0021", "11") + "9c40 0035 000d 0000 6162636465 0000000000", "52:54:00:00:00:01 > 52:54:00:00:00:02, IP 10.62.1.2:40000 > 203.0.113.7:53: UDP, 5 bytes"},
		{four("001c", "01") + "0800 0000 0001 0001", "52:54:00:00:00:01 > 52:54:00:00:00:02, IP 10.62.1.2 > 203.0.113.7: ICMP echo request"},
		{
			four("0038", "01") + "0301 0000 0000 0000 4500 001c 0000 0000 40 11 0000 cb007107 0a3e0102 0035 9c40 0008 0000",
			"52:54:00:00:00:01 > 52:54:00:00:00:02, IP 10.62.1.2 > 203.0.113.7: ICMP unreachable about IP 203.0.113.7:53 > 10.62.1.2:40000: UDP, 28 bytes",
		},
		{four("0024", "06") + "9c40 0050", "52:54:00:00:00:01 > 52:54:00:00:00:02, IP 10.62.1.2 > 203.0.113.7: protocol 6"},
		{macs + "8100 0005 0806 0001 0800 06 04 0001 525400000001 0a3e0102 000000000000 0a3e0101", "52:54:00:00:00:01 > 52:54:00:00:00:02, VLAN tag, ARP who has 10.62.1.1, tell 10.62.1.2"},
		{macs + "0806 0001 0800 06 04 0002 525400000001 0a3e0102 525400000002 0a3e0101", "52:54:00:00:00:01 > 52:54:00:00:00:02, ARP 10.62.1.2 is at 52:54:00:00:00:01, to 10.62.1.1"},
		{
			macs + "86dd 6000 0000 0020 3a ff fe80000000000000000000000000006d ff020000000000000000000000000001 8700 0000 0000 0000 fd000000000000000000000000000009 0101 525400000001",
			"52:54:00:00:00:01 > 52:54:00:00:00:02, IP6 fe80::6d > ff02::1: ICMP neighbour solicitation of fd00::9, 24 bytes",
		},
		// Behind a hop-by-hop header.
		{
			macs + "86dd 6000 0000 0010 00 40 fd000000000000000000000000000001 fd000000000000000000000000000002 1100 0000 0000 0000 9c40 0035 0008 0000",
			"52:54:00:00:00:01 > 52:54:00:00:00:02, IP6 [fd00::1]:40000 > [fd00::2]:53: UDP, options",
		},
		{macs + "88b5 6162", "52:54:00:00:00:01 > 52:54:00:00:00:02, ethertype 0x88b5"},
		{"5254", "a frame cut short"},
	} {
		p := Decode(bytesOf(t, c.frame))
		if got := p.String(); got != c.want {
			t.Errorf("Decode(%s)\n  = %s\nwant %s", c.frame, got, c.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, words := range []string{
		four("0028", "06") + "9c40 0050 000003e8 00000000 5002 2000 0000 0000",
		four("0038", "01") + "0301 0000 0000 0000 4500 001c 0000 0000 40 11 0000 cb007107 0a3e0102 0035 9c40 0008 0000",
		macs + "86dd 6000 0000 0010 00 40 fd000000000000000000000000000001 fd000000000000000000000000000002 2c00 0000 0000 0000 3a00 0001 0000 0000 8000",
	} {
		b, _ := hex.DecodeString(strings.Join(strings.Fields(words), ""))
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		p := Decode(frame)
		if len(p.Payload) > len(frame) || p.About != nil && p.About.About != nil {
			t.Errorf("Decode(%x) = %+v", frame, p)
		}
		for _, r := range p.String() {
			if r < ' ' || r > '~' {
				t.Errorf("Decode(%x).String() = %q", frame, p.String())
			}
		}
		DecodeIP(EtherIP4, frame)
		DecodeIP(EtherIP6, frame)
	})
}
