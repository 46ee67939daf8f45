package session

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

func TestParseTunnel(t *testing.T) {
	for in, want := range map[string]string{
		"L 8080:localhost:80":               "127.0.0.1:8080 localhost:80",
		"L 0.0.0.0:8080:web:80":             "0.0.0.0:8080 web:80",
		"R [::1]:8080:[fd00::1]:80":         "[::1]:8080 [fd00::1]:80",
		"D 1080":                            "127.0.0.1:1080 ",
		"D 10.0.0.1:1080":                   "10.0.0.1:1080 ",
		"L 8080":                            "",
		"L 8080:x":                          "",
		"L a:b:c:d:e":                       "",
		"L 99999:x:1":                       "",
		"L 0:x:1":                           "",
		"L :80:x:1":                         "",
		"L [::1:80:x:1":                     "",
		"D x":                               "",
		"D ":                                "",
		"L elsewhere.example.org:80:web:80": "",
	} {
		got := ""
		if tunnel, err := ParseTunnel(TunnelKind(in[0]), in[2:]); err == nil {
			got = tunnel.Listen + " " + tunnel.To
		}
		want1(t, in, got, want)
	}
}

// echoServer answers each connection with what it sends.
func echoServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
		}
	}()
	return l.Addr().String()
}

// freePort is one that nobody has at the moment.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func wantEcho(t *testing.T, addr string, before, answer []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(before); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(answer))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, answer) {
		t.Fatalf("answer %v, %v, want %v", got, err, answer)
	}
	_, _ = io.WriteString(conn, "hello")
	_ = conn.(*net.TCPConn).CloseWrite()
	words, err := io.ReadAll(conn)
	if string(words) != "hello" {
		t.Errorf("back came %q, %v", words, err)
	}
}

func TestTunnels(t *testing.T) {
	c := newGuest(t, nil).dial()
	echo, local, socks := echoServer(t), freePort(t), freePort(t)
	stop, err := c.Open(t.Context(), quiet(), []Tunnel{
		{TunnelLocal, local, echo},
		{TunnelSOCKS, socks, ""},
	})
	if err != nil {
		t.Fatal(err)
	}
	wantEcho(t, local, nil, nil)
	var host string
	var port int
	fmt.Sscanf(strings.Replace(echo, ":", " ", 1), "%s %d", &host, &port)
	request := append([]byte{5, 1, 0, 5, 1, 0, 3, byte(len(host))}, host...)
	wantEcho(t, socks, append(request, byte(port>>8), byte(port)), []byte{5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	if _, err := c.Open(t.Context(), quiet(), []Tunnel{{TunnelLocal, local, echo}}); err == nil {
		t.Error("a port that is taken was forwarded")
	}
	stop()
	if conn, err := net.Dial("tcp", local); err == nil {
		conn.Close()
		t.Error("the forward is open after stop")
	}
}

func TestRemoteTunnel(t *testing.T) {
	c := startSSHD(t, "/bin/sh").dial(t)
	remote := freePort(t)
	stop, err := c.Open(t.Context(), quiet(), []Tunnel{{TunnelRemote, remote, echoServer(t)}})
	if err != nil {
		t.Fatal(err)
	}
	wantEcho(t, remote, nil, nil)
	stop()
}

func FuzzParseTunnel(f *testing.F) {
	f.Add("127.0.0.1:80:[::1]:80")
	f.Fuzz(func(t *testing.T, s string) {
		tunnel, err := ParseTunnel(TunnelLocal, s)
		if err == nil && (tunnel.Listen == "" || tunnel.To == "") {
			t.Errorf("%q gives %+v", s, tunnel)
		}
	})
}
