package prober

import (
	"bytes"
	"encoding/json"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// run has a probe carry out an order and returns what it says.
func run(t *testing.T, o Order) (map[int]Said, []Said) {
	t.Helper()
	in, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if status := Run(bytes.NewReader(in), &out); status != 0 {
		t.Fatalf("the probe ended with %d", status)
	}
	by := map[int]Said{}
	var all []Said
	if err := Listen(&out, o, func(s Said) { by[s.ID], all = s, append(all, s) }); err != nil {
		t.Fatal(err)
	}
	return by, all
}

func TestRun(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(bytes.ToUpper(buf[:n]), from)
		}
	}()
	shut, err := net.ListenPacket("udp4", "127.0.0.1:0") // and closed: nobody listens there
	if err != nil {
		t.Fatal(err)
	}
	defer shut.Close()
	port := func(a net.Addr) uint16 { return netip.MustParseAddrPort(a.String()).Port() }
	loopback := netip.MustParseAddr("127.0.0.1")
	got, all := run(t, Order{Shots: []Shot{
		{ID: 1, Proto: "tcp", To: loopback, Port: port(l.Addr()), Token: "t"},
		{ID: 2, Proto: "tcp", To: loopback, Port: 1, Token: "t"},
		{ID: 3, Proto: "udp", To: loopback, Port: port(u.LocalAddr()), Token: "t"},
		{ID: 4, Proto: "udp", To: loopback, Port: 1, Token: "t"},
		{ID: 5, Proto: "udp", To: loopback, Port: port(shut.LocalAddr()), Token: "t"},
		{ID: 6, Proto: "tcp", To: netip.MustParseAddr("fd00:6d65::1"), Port: 1, Source: port(l.Addr()), Token: "t"},
	}})
	want := map[int]Outcome{1: Answered, 2: Refused, 3: Answered, 4: Refused, 5: Silent}
	for id, outcome := range want {
		if got[id].Outcome != outcome {
			t.Errorf("shot %d: %+v, want %s", id, got[id], outcome)
		}
	}
	if last := all[len(all)-1]; last.Round != 1 {
		t.Errorf("the last line is %+v, want the end of round 1", last)
	}
}

func TestListenRefuses(t *testing.T) {
	o := Order{Shots: []Shot{{ID: 7}}, Frames: []Raw{{ID: 8}}}
	for line, want := range map[string]string{
		`{"id":7,"outcome":"answered"}`:                   "",
		`{"id":8,"outcome":"unsent","why":"a\u001b[2Jb"}`: "",
		`{"root":true}`:                         "",
		`{"id":9,"outcome":"answered"}`:         "not asked",
		`{"id":7}`:                              "says nothing of 7",
		`{"id":7,"outcome":"fine"}`:             `says "fine"`,
		`{"id":7,"outcome":"silent","to":"x"}`:  "no probe says",
		`{"id":7,"outcome":"silent"}{"id":7}`:   "no probe says",
		`{"id":-1,"outcome":"silent"}`:          "below nothing",
		"\x1b]0;owned\x07":                      `no probe says: "\x1b`,
		`{"why":"` + strings.Repeat("x", 1<<20): "a line of more than",
	} {
		err := Listen(strings.NewReader(line), o, func(s Said) {
			if strings.Contains(s.Why, "\x1b") {
				t.Errorf("%s: Why = %q", line, s.Why)
			}
		})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("Listen(%.40q) = %v, want %q", line, err, want)
		}
	}
}

func FuzzListen(f *testing.F) {
	f.Add([]byte(`{"id":7,"outcome":"answered"}` + "\n" + `{"round":1}`))
	f.Add([]byte(`{"id":7,"outcome":"unsent","why":"é"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = Listen(bytes.NewReader(b), Order{Shots: []Shot{{ID: 7}}}, func(s Said) {
			if s.ID != 0 && s.ID != 7 || len(s.Why) > longestWhy {
				t.Errorf("Listen(%q) took %+v", b, s)
			}
			for _, r := range s.Why {
				if r < ' ' || r > '~' {
					t.Errorf("Listen(%q) took %q", b, s.Why)
				}
			}
		})
	})
}
