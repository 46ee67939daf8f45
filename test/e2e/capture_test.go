package e2e

import (
	"bytes"
	"slices"
	"sync"
	"testing"

	"meros/internal/capture"
)

// watcher keeps what passes links of this host.
type watcher struct {
	mu     sync.Mutex
	frames []capture.Frame
}

// watch sees all frames of these links from now on, in and out, until the test ends.
func watch(t *testing.T, links ...string) *watcher {
	t.Helper()
	socket, err := capture.Open()
	if err != nil {
		t.Fatal(err)
	}
	w, stop, done := &watcher{}, make(chan struct{}), make(chan error)
	go func() {
		done <- socket.Run(stop, func(f capture.Frame) {
			if !slices.Contains(links, f.Link) {
				return
			}
			f.Raw = bytes.Clone(f.Raw)
			f.Packet = capture.Decode(f.Raw)
			w.mu.Lock()
			w.frames = append(w.frames, f)
			w.mu.Unlock()
		})
	}()
	t.Cleanup(func() {
		close(stop)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if lost := socket.Lost(); lost > 0 {
			t.Errorf("%d frames were not seen", lost)
		}
		_ = socket.Close()
	})
	return w
}

// take returns what was seen, and forgets it.
func (w *watcher) take() []capture.Frame {
	w.mu.Lock()
	defer w.mu.Unlock()
	frames := w.frames
	w.frames = nil
	return frames
}

// timestamped reports whether a whole TCP segment over IPv4 tells its sender's
// clock: RFC 7323.
func timestamped(f capture.Frame) bool {
	tcp := f.Raw[14+int(f.Raw[14]&15)*4:]
	for o := tcp[20:max(20, int(tcp[12]>>4)*4)]; len(o) > 0 && o[0] != 0; {
		switch {
		case o[0] == 8:
			return true
		case o[0] == 1:
			o = o[1:]
		case len(o) < 2 || o[1] < 2 || int(o[1]) > len(o):
			return false
		default:
			o = o[o[1]:]
		}
	}
	return false
}

// ownIPv6 reports whether a frame is what a link that has come up says for itself:
// neighbour discovery and multicast listener reports of its own address, RFC 4861
// and 3810. A guest's IPv6 would be from elsewhere.
func ownIPv6(f capture.Frame) bool {
	return f.Ether == capture.EtherIP6 && f.Proto == capture.ICMPv6 && f.Type >= 130 && (f.From.IsUnspecified() || f.From.IsLinkLocalUnicast())
}
