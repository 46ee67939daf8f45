package mirror_test

import (
	"errors"
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

// through asks the proxy as a program of a stage would that got its Env.
func through(t *testing.T, p *mirror.Stage, address string) (int, string, error) {
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
	p, err := mirror.Start(dir, offline, func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func stage(t *testing.T, p *mirror.Proxy) *mirror.Stage {
	t.Helper()
	s, err := p.Stage()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// end ends a stage and, with it, its proxy.
func end(t *testing.T, p *mirror.Proxy, s *mirror.Stage, r mirror.Result) {
	t.Helper()
	if err := errors.Join(s.End(r), p.Close()); err != nil {
		t.Error(err)
	}
}

func TestKeepsPackagesAndAsksAnewForIndexes(t *testing.T) {
	peer, dir := newPeer(t), t.TempDir()
	p := start(t, dir, false)
	s := stage(t, p)
	for _, s := range []*mirror.Stage{s, stage(t, p)} {
		if status, body, err := through(t, s, peer.URL+"/pool/a.deb"); status != 200 || body != "package" || err != nil {
			t.Errorf("a.deb = %d %q, %v", status, body, err)
		}
	}
	if n := peer.asked.Load(); n != 1 {
		t.Errorf("the mirror was asked %d times for a package, want 1", n)
	}
	for _, want := range []string{"index 2", "index 3"} {
		if _, body, _ := through(t, s, peer.URL+"/dists/x/InRelease"); body != want {
			t.Errorf("InRelease = %q, want %q", body, want)
		}
	}
	end(t, p, s, mirror.Good)
	peer.Close()
	p = start(t, dir, true)
	off := stage(t, p)
	defer end(t, p, off, mirror.Good)
	for name, want := range map[string]string{"/pool/a.deb": "package", "/dists/x/InRelease": "index 3"} {
		if status, body, err := through(t, off, peer.URL+name); status != 200 || body != want || err != nil {
			t.Errorf("offline %s = %d %q, %v, want %q", name, status, body, err, want)
		}
	}
	if status, _, _ := through(t, off, peer.URL+"/pool/other.deb"); status != http.StatusNotFound {
		t.Errorf("offline, unknown: %d, want 404", status)
	}
}

// Of a stage that fails, what is no part and never changes stays; of one that got
// something damaged, nothing does.
func TestKeepsNoPartAndNothingDamaged(t *testing.T) {
	peer, dir := newPeer(t), t.TempDir()
	proxy := start(t, dir, false)
	p := stage(t, proxy)
	if _, body, err := through(t, p, peer.URL+"/pool/cut.deb"); err == nil {
		t.Errorf("a download that was cut off = %q without an error", body)
	}
	if status, _, _ := through(t, p, peer.URL+"/away.deb"); status != http.StatusBadGateway {
		t.Errorf("a redirect = %d: want one to a file refused", status)
	}
	if status, _, _ := through(t, p, peer.URL+"/pool/nonesuch.deb"); status != http.StatusNotFound {
		t.Errorf("a missing package = %d, want 404", status)
	}
	for _, tt := range []struct {
		result mirror.Result
		want   int
	}{{mirror.Failed, 1}, {mirror.Damaged, 0}} {
		for _, name := range []string{"/pool/a.deb", "/dists/x/InRelease"} {
			if _, _, err := through(t, p, peer.URL+name); err != nil {
				t.Fatal(err)
			}
		}
		end(t, proxy, p, tt.result)
		if left, _ := os.ReadDir(dir); len(left) != tt.want {
			t.Errorf("%d files are kept after a stage that ended with %d, want %d", len(left), tt.result, tt.want)
		}
		proxy = start(t, dir, false)
		p = stage(t, proxy)
	}
	end(t, proxy, p, mirror.Good)
}

// What a build under sudo downloads, an ordinary user's next one can read.
func TestDownloadsAreTheOwners(t *testing.T) {
	peer, dir := newPeer(t), t.TempDir()
	var given []string
	p, err := mirror.Start(dir, false, func(path string) error { given = append(given, path); return nil })
	if err != nil {
		t.Fatal(err)
	}
	s := stage(t, p)
	for _, name := range []string{"/pool/a.deb", "/dists/x/InRelease"} {
		if _, _, err := through(t, s, peer.URL+name); err != nil {
			t.Fatal(err)
		}
	}
	end(t, p, s, mirror.Good)
	files, err := os.ReadDir(dir)
	if len(files) != 2 || len(given) != 2 || err != nil {
		t.Fatalf("kept %v, given %q, %v, want two of each", files, given, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode() != 0o644 {
			t.Errorf("%s: %v, %v, want it readable", f.Name(), info.Mode(), err)
		}
	}
}

// Offline there is nowhere to get anew what is thrown away.
func TestOfflineNothingIsThrownAway(t *testing.T) {
	peer, dir := newPeer(t), t.TempDir()
	for _, offline := range []bool{false, true} {
		p := start(t, dir, offline)
		s := stage(t, p)
		if status, body, err := through(t, s, peer.URL+"/pool/a.deb"); body != "package" || err != nil {
			t.Errorf("offline %v: a.deb = %d %q, %v", offline, status, body, err)
		}
		end(t, p, s, map[bool]mirror.Result{false: mirror.Good, true: mirror.Damaged}[offline])
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.deb")); len(left) != 1 {
		t.Errorf("kept after a damaged stage offline: %q, want the package", left)
	}
}

// A stage that asks for a package twice did not get what its index says: the second
// answer comes from the mirror, and is what later builds get.
func TestBadKeptPackageIsFetchedAnew(t *testing.T) {
	peer, dir := newPeer(t), t.TempDir()
	p := start(t, dir, false)
	s := stage(t, p)
	if _, _, err := through(t, s, peer.URL+"/pool/a.deb"); err != nil {
		t.Fatal(err)
	}
	end(t, p, s, mirror.Good)
	kept, _ := filepath.Glob(filepath.Join(dir, "*.deb"))
	if len(kept) != 1 {
		t.Fatalf("kept: %q", kept)
	}
	if err := os.Truncate(kept[0], 3); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		p = start(t, dir, false)
		s = stage(t, p)
		var got []string
		for range 2 {
			_, body, _ := through(t, s, peer.URL+"/pool/a.deb")
			got = append(got, body)
		}
		if got[1] != "package" {
			t.Errorf("asked twice: %q, want the package in the end", got)
		}
		end(t, p, s, mirror.Failed)
	}
	if content, err := os.ReadFile(kept[0]); string(content) != "package" {
		t.Errorf("kept is %q, %v", content, err)
	}
}

// A mirror that falls silent is given up, and not asked again by that build.
func TestSilentMirrorIsGivenUp(t *testing.T) {
	ended := make(chan struct{})
	var asked atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("/silent.deb", func(http.ResponseWriter, *http.Request) { asked.Add(1); <-ended })
	mux.HandleFunc("/midway.deb", func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, "half")
		w.(http.Flusher).Flush()
		<-ended
	})
	silent := httptest.NewServer(mux)
	defer silent.Close()
	defer close(ended)
	peer := newPeer(t)
	for _, name := range []string{"/silent.deb", "/midway.deb"} {
		asked.Store(0)
		p := start(t, t.TempDir(), false)
		p.SetStall(300 * time.Millisecond)
		s := stage(t, p)
		if status, body, err := through(t, s, silent.URL+name); status == http.StatusOK && err == nil {
			t.Errorf("%s = %q", name, body)
		}
		if status, _, _ := through(t, s, silent.URL+"/silent.deb"); status != http.StatusBadGateway || asked.Load() != 1 {
			t.Errorf("asked again after %s: %d, and the mirror was asked %d times, want 502 and once", name, status, asked.Load())
		}
		if status, _, _ := through(t, s, peer.URL+"/pool/a.deb"); status != http.StatusOK {
			t.Errorf("another mirror: %d", status)
		}
		if fault := p.Fault(); fault == nil || !strings.HasSuffix(fault.Error(), "nothing came for 300ms") {
			t.Errorf("Fault = %v", fault)
		}
		end(t, p, s, mirror.Failed)
	}
}

func TestServesOnlyItsBuild(t *testing.T) {
	peer := newPeer(t)
	p := start(t, t.TempDir(), false)
	s := stage(t, p)
	defer end(t, p, s, mirror.Good)
	u, err := url.Parse(strings.TrimPrefix(s.Env()[0], "http_proxy="))
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
	for i, result := range []mirror.Result{mirror.Good, mirror.Failed} {
		p := start(t, dir, false)
		s := stage(t, p)
		if _, body, _ := through(t, s, peer.URL+"/dists/x/InRelease"); body != fmt.Sprintf("index %d", i+1) {
			t.Errorf("InRelease = %q", body)
		}
		end(t, p, s, result)
	}
	p := start(t, dir, true)
	off := stage(t, p)
	defer end(t, p, off, mirror.Good)
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

// What a build was answered with counts as used on that day, however old it is.
func TestPruneTakesWhatNoBuildUses(t *testing.T) {
	peer, dir := newPeer(t), t.TempDir()
	var kept []string
	for range 2 {
		p := start(t, dir, false)
		s := stage(t, p)
		if _, _, err := through(t, s, peer.URL+"/pool/a.deb"); err != nil {
			t.Fatal(err)
		}
		end(t, p, s, mirror.Good)
		if kept, _ = filepath.Glob(filepath.Join(dir, "*.deb")); len(kept) != 1 {
			t.Fatalf("kept: %q", kept)
		}
		if n, err := mirror.Prune(dir, time.Hour); n != 0 || err != nil {
			t.Errorf("Prune = %d, %v, want what was used just now kept", n, err)
		}
		old := time.Now().Add(-48 * time.Hour)
		if err := os.Chtimes(kept[0], old, old); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := mirror.Prune(dir, time.Hour); n != 1 || err != nil {
		t.Errorf("Prune = %d, %v, want what was used two days ago removed", n, err)
	}
}
