package mirror_test

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"meros/internal/mirror"
)

// trust makes this process take a test server's certificate for a good one. It
// has to come before the first connection by TLS (crypto/x509, SSL_CERT_FILE).
func trust(t *testing.T, s *httptest.Server) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	content := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", file)
}

func TestSecureAddressesAreKeptToo(t *testing.T) {
	var asked atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("/pool/a.deb", func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		fmt.Fprint(w, "package by ", map[bool]string{true: "https", false: "http"}[r.TLS != nil])
	})
	mux.HandleFunc("/moved.deb", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/pool/a.deb", http.StatusFound) })
	for name, to := range map[string]string{"http": "http://127.0.0.1:1/a.deb", "file": "file:///etc/passwd"} {
		mux.HandleFunc("/to-"+name, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) })
	}
	s := httptest.NewTLSServer(mux)
	defer s.Close()
	trust(t, s)
	dir := t.TempDir()
	p := start(t, dir, false)
	st := stage(t, p)
	for _, st := range []*mirror.Stage{stage(t, p), st} {
		status, body, err := through(t, st, mirror.Plain(s.URL+"/pool/a.deb"))
		if status != 200 || body != "package by https" || err != nil {
			t.Fatalf("a.deb = %d %q, %v, want it by https; %v", status, body, err, p.Fault())
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the mirror was asked %d times for one package", n)
	}
	if status, _, err := through(t, st, mirror.Plain(s.URL+"/moved.deb")); status != http.StatusFound || err != nil {
		t.Errorf("moved.deb = %d, %v", status, err)
	}
	for _, name := range []string{"/to-http", "/to-file"} {
		if status, _, err := through(t, st, mirror.Plain(s.URL+name)); status != http.StatusBadGateway || err != nil {
			t.Errorf("%s = %d, %v, want it refused", name, status, err)
		}
		if p.Fault() == nil || !strings.Contains(p.Fault().Error(), "sends one on to") {
			t.Errorf("%s: the fault is %v", name, p.Fault())
		}
	}
	end(t, p, st, mirror.Good)
	s.Close()
	p = start(t, dir, true)
	st = stage(t, p)
	defer end(t, p, st, mirror.Good)
	if status, body, err := through(t, st, mirror.Plain(s.URL+"/pool/a.deb")); status != 200 || body != "package by https" || err != nil {
		t.Errorf("offline: a.deb = %d %q, %v", status, body, err)
	}
}

func TestPlainTextAndBack(t *testing.T) {
	for text, want := range map[string]string{
		"deb [signed-by=/k] https://a.example/debian x main":   "deb [signed-by=/k] http://https.meros.invalid/a.example/debian x main",
		"https://a.example/v1/main\nhttps://b.example:8443/\n": "http://https.meros.invalid/a.example/v1/main\nhttp://https.meros.invalid/b.example:8443/\n",
		"deb http://a.example/?x=https://b x main":             "deb http://a.example/?x=https://b x main",
		"": "",
	} {
		got := mirror.PlainText(text)
		if got != want {
			t.Errorf("PlainText(%q) = %q, want %q", text, got, want)
		}
		if back := mirror.Shown(got); back != text {
			t.Errorf("Shown(%q) = %q, want %q", got, back, text)
		}
	}
}

// Whatever a program asks for, the proxy answers without a panic of its own.
func FuzzSecurePath(f *testing.F) {
	f.Add("127.0.0.1:1/a.deb")
	f.Add("[::1")
	f.Add("//..//%2e%2e/\x00")
	p, err := mirror.Start(f.TempDir(), true, func(string) error { return nil })
	if err != nil {
		f.Fatal(err)
	}
	defer p.Close()
	st, err := p.Stage()
	if err != nil {
		f.Fatal(err)
	}
	u, err := url.Parse(strings.TrimPrefix(st.Env()[0], "http_proxy="))
	if err != nil {
		f.Fatal(err)
	}
	password, _ := u.User.Password()
	login := "Basic " + base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password))
	f.Fuzz(func(t *testing.T, rest string) {
		r := httptest.NewRequest(http.MethodGet, "http://https.meros.invalid/", http.NoBody)
		r.URL.Path = "/" + rest
		r.Header.Set("Proxy-Authorization", login)
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		if w.Code == http.StatusOK {
			t.Errorf("an offline proxy without files answers %d to %q", w.Code, rest)
		}
	})
}
