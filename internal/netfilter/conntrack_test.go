package netfilter

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"meros/internal/proc"
)

func TestCut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("connection tracking takes root")
	}
	// A namespace of its own for this thread; it ends with the test.
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread goes with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		cutInNamespace(t)
	}()
	<-done
}

func cutInNamespace(t *testing.T) {
	if err := batch(t.Context(), "link set lo up\naddr add 10.62.99.2/32 dev lo\naddr add 10.62.99.3/32 dev lo\n"); err != nil {
		t.Error(err)
		return
	}
	// Tracking begins with the first rule that asks for it.
	if err := nft(t.Context(), proc.Host{}, "table inet t {\n\tchain c {\n\t\ttype filter hook input priority 0;\n\t\tct state new accept\n\t}\n}\n", nil); err != nil {
		t.Error(err)
		return
	}
	for _, to := range []string{"10.62.99.2:9", "10.62.99.3:9", "127.0.0.1:9"} {
		c, err := net.Dial("udp", to)
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = c.Write([]byte("x"))
		_ = c.Close()
	}
	left := func() string {
		b, err := os.ReadFile("/proc/thread-self/net/nf_conntrack")
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	if before := left(); !strings.Contains(before, "10.62.99.2") || !strings.Contains(before, "10.62.99.3") {
		t.Errorf("not tracked: %q", before)
	}
	n, err := Cut([]netip.Addr{netip.MustParseAddr("10.62.99.2")})
	if err != nil || n != 1 {
		t.Errorf("Cut = %d, %v, want 1", n, err)
	}
	if after := left(); strings.Contains(after, "10.62.99.2") || !strings.Contains(after, "10.62.99.3") {
		t.Errorf("after Cut: %q", after)
	}
	if n, err := Cut(nil); n != 0 || err != nil {
		t.Errorf("Cut of nobody = %d, %v", n, err)
	}
}
