package mirror_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"meros/internal/mirror"
)

// peer is a mirror that counts what it is asked for.
type peer struct {
	*httptest.Server
	asked atomic.Int32
}

func newPeer(t *testing.T) *peer {
	t.Helper()
	p := &peer{}
	mux := http.NewServeMux()
	mux.HandleFunc("/pool/a.deb", func(w http.ResponseWriter, _ *http.Request) { p.asked.Add(1); fmt.Fprint(w, "package") })
	mux.HandleFunc("/dists/x/InRelease", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "index ", p.asked.Add(1)) })
	mux.HandleFunc("/pool/cut.deb", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, "half")
	})
	mux.HandleFunc("/away.deb", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

// through asks the proxy as a program would that got its Env.
func through(t *testing.T, p *mirror.Proxy, address string) (int, string, error) {
	t.Helper()
	u, err := url.Parse(strings.TrimPrefix(p.Env()[0], "http_proxy="))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{
		Transport:     &http.Transport{Proxy: http.ProxyURL(u), DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Get(address)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func start(t *testing.T, dir string, offline bool) *mirror.Proxy {
	t.Helper()
	p, err := mirror.Start(dir, offline)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestKeepsPackagesAndAsksAnewForIndexes(t *testing.T) {
	peer, dir := newPeer(t), t.TempDir()
	p := start(t, dir, false)
	for range 2 {
		if status, body, err := through(t, p, peer.URL+"/pool/a.deb"); status != 200 || body != "package" || err != nil {
			t.Errorf("a.deb = %d %q, %v", status, body, err)
		}
	}
	if n := peer.asked.Load(); n != 1 {
		t.Errorf("the mirror was asked %d times for a package, want 1", n)
	}
	for _, want := range []string{"index 2", "index 3"} {
		if _, body, _ := through(t, p, peer.URL+"/dists/x/InRelease"); body != want {
			t.Errorf("InRelease = %q, want %q", body, want)
		}
	}
	if err := p.Close(true); err != nil {
		t.Fatal(err)
	}
	peer.Close()
	off := start(t, dir, true)
	defer off.Close(true)
	for name, want := range map[string]string{"/pool/a.deb": "package", "/dists/x/InRelease": "index 3"} {
		if status, body, err := through(t, off, peer.URL+name); status != 200 || body != want || err != nil {
			t.Errorf("offline %s = %d %q, %v, want %q", name, status, body, err, want)
		}
	}
	if status, _, _ := through(t, off, peer.URL+"/pool/other.deb"); status != http.StatusNotFound {
		t.Errorf("offline, unknown: %d, want 404", status)
	}
}

func TestKeepsNoPartAndNothingOfAFailedBuild(t *testing.T) {
	peer, dir := newPeer(t), t.TempDir()
	p := start(t, dir, false)
	if _, body, err := through(t, p, peer.URL+"/pool/cut.deb"); err == nil {
		t.Errorf("a download that was cut off = %q without an error", body)
	}
	if status, _, _ := through(t, p, peer.URL+"/away.deb"); status != http.StatusBadGateway {
		t.Errorf("a redirect = %d: want one to a file refused", status)
	}
	if status, _, _ := through(t, p, peer.URL+"/pool/nonesuch.deb"); status != http.StatusNotFound {
		t.Errorf("a missing package = %d, want 404", status)
	}
	if _, _, err := through(t, p, peer.URL+"/pool/a.deb"); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(false); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%s is kept after a failed build", left[0].Name())
	}
}

func TestServesOnlyItsBuild(t *testing.T) {
	peer := newPeer(t)
	p := start(t, t.TempDir(), false)
	defer p.Close(true)
	u, err := url.Parse(strings.TrimPrefix(p.Env()[0], "http_proxy="))
	if err != nil {
		t.Fatal(err)
	}
	for name, user := range map[string]*url.Userinfo{"nobody": nil, "a guess": url.UserPassword("meros", "0000")} {
		u.User = user
		client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(u)}}
		resp, err := client.Get(peer.URL + "/pool/a.deb")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusProxyAuthRequired {
			t.Errorf("%s gets %d, want 407", name, resp.StatusCode)
		}
	}
	if peer.asked.Load() != 0 {
		t.Error("a stranger's request reached the mirror")
	}
}

// An index that a build fetched anew and failed with must not take the place of
// the one that a good build had.
func TestFailedBuildKeepsWhatWasThere(t *testing.T) {
	peer, dir := newPeer(t), t.TempDir()
	for i, keep := range []bool{true, false} {
		p := start(t, dir, false)
		if _, body, _ := through(t, p, peer.URL+"/dists/x/InRelease"); body != fmt.Sprintf("index %d", i+1) {
			t.Errorf("InRelease = %q", body)
		}
		if err := p.Close(keep); err != nil {
			t.Fatal(err)
		}
	}
	off := start(t, dir, true)
	defer off.Close(true)
	if _, body, _ := through(t, off, peer.URL+"/dists/x/InRelease"); body != "index 1" {
		t.Errorf("offline after a failed build: %q, want what the good one had", body)
	}
}

func TestSweepTakesOldFolders(t *testing.T) {
	dir := t.TempDir()
	for name, age := range map[string]time.Duration{"fresh-new": 0, "fresh-old": 24 * time.Hour} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(filepath.Join(dir, name), then, then); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := mirror.Sweep(dir); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 || left[0].Name() != "fresh-new" {
		t.Errorf("left: %v, want only the folder of a build that may live", left)
	}
}
