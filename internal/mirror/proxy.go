package mirror

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Proxy serves one build. Close it.
type Proxy struct {
	dir     string
	offline bool
	token   string
	server  *http.Server
	client  *http.Client
	address string

	fresh string // folder of what this build fetched, until it is known to be good

	mu    sync.Mutex
	fault error
}

// Fault is the last reason for which a mirror could not be asked, or nil: package
// managers only tell that it could not.
func (p *Proxy) Fault() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault
}

// Start starts a proxy that keeps its files in dir. Offline it asks no other
// host, and answers 404 for what it does not have.
func Start(dir string, offline bool) (*Proxy, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	secret := make([]byte, 16)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("package store: %w", err)
	}
	fresh, err := os.MkdirTemp(dir, freshPrefix)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	p := &Proxy{
		dir: dir, fresh: fresh, offline: offline, token: hex.EncodeToString(secret), address: l.Addr().String(),
		// No overall limit: packages may be large and mirrors slow. apt watches for a
		// download that stalls.
		client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = p.server.Serve(l) }()
	return p, nil
}

// Env are the variables by which programs find the proxy. Others on this host
// may see its port but not its password.
func (p *Proxy) Env() []string {
	return []string{"http_proxy=http://" + proxyUser + ":" + p.token + "@" + p.address}
}

// Close ends the proxy. What it stored stays only if the build went well: a
// file that made it fail must not do so for ever.
func (p *Proxy) Close(keep bool) error {
	err := p.server.Close()
	if keep {
		files, readErr := os.ReadDir(p.fresh)
		err = errors.Join(err, readErr)
		if len(files) > 0 {
			err = errors.Join(err, p.sync())
		}
		for _, f := range files {
			if !strings.HasPrefix(f.Name(), partialPrefix) {
				err = errors.Join(err, os.Rename(filepath.Join(p.fresh, f.Name()), filepath.Join(p.dir, f.Name())))
			}
		}
	}
	return errors.Join(err, os.RemoveAll(p.fresh))
}

// sync waits until all is on the disk. A file is kept for long: one that a power
// cut left empty under its name would fail every build that asks for it.
func (p *Proxy) sync() error {
	dir, err := os.Open(p.fresh)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Syncfs(int(dir.Fd()))
}

// Names in the folder of a proxy that are no kept answers.
const freshPrefix, partialPrefix = "fresh-", "partial-"

// ServeHTTP implements http.Handler for requests of the form that proxies get.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case !p.authorised(r):
		w.Header().Set("Proxy-Authenticate", "Basic realm=meros")
		http.Error(w, "this proxy is a build's own", http.StatusProxyAuthRequired)
	case r.Method != http.MethodGet || r.URL.Scheme != "http" || r.URL.Host == "":
		http.Error(w, "only GET of http addresses", http.StatusMethodNotAllowed)
	default:
		p.get(w, r)
	}
}

func (p *Proxy) authorised(r *http.Request) bool {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(proxyUser+":"+p.token))
	return subtle.ConstantTimeCompare([]byte(r.Header.Get("Proxy-Authorization")), []byte(want)) == 1
}

// nameOf is the name under which the answer for an address is kept.
func nameOf(u *url.URL) string {
	sum := sha256.Sum256([]byte(u.String()))
	return hex.EncodeToString(sum[:]) + path.Ext(u.Path)
}

func (p *Proxy) get(w http.ResponseWriter, r *http.Request) {
	from, err := upstream(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	name := nameOf(from)
	if p.offline || immutable(from.Path) {
		if p.serveFile(w, r, filepath.Join(p.dir, name)) || p.serveFile(w, r, filepath.Join(p.fresh, name)) {
			return
		}
	}
	if p.offline {
		// Not a 5xx: apt would try those again and again.
		http.Error(w, "not kept from an earlier build", http.StatusNotFound)
		return
	}
	if err := p.fetch(w, r, from, filepath.Join(p.fresh, name)); err != nil {
		// Too late for a status if the answer has begun: cut the connection, so that
		// a part is not taken for the whole.
		panic(http.ErrAbortHandler)
	}
}

// immutable tells the files that never change under one name: packages, and
// indexes named by their hash.
func immutable(name string) bool {
	switch path.Ext(name) {
	case ".deb", ".udeb", ".apk":
		return true
	}
	return strings.Contains(name, "/by-hash/")
}

func (p *Proxy) serveFile(w http.ResponseWriter, r *http.Request, file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", info.ModTime(), f)
	return true
}

// cannot answers that a mirror could not be asked.
func (p *Proxy) cannot(w http.ResponseWriter, err error) {
	p.mu.Lock()
	p.fault = err
	p.mu.Unlock()
	http.Error(w, err.Error(), http.StatusBadGateway)
}

// fetch hands on the mirror's answer and keeps it if it is whole.
func (p *Proxy) fetch(w http.ResponseWriter, r *http.Request, from *url.URL, file string) error {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, from.String(), http.NoBody)
	if err != nil {
		return err
	}
	for _, name := range []string{"User-Agent", "Range", "If-Range", "If-Modified-Since", "Cache-Control"} {
		if v := r.Header.Get(name); v != "" {
			req.Header.Set(name, v)
		}
	}
	resp, err := p.client.Do(req)
	if err != nil {
		p.cannot(w, err)
		return nil
	}
	defer resp.Body.Close()
	if location := resp.Header.Get("Location"); location != "" {
		if location, err = forward(from, location); err != nil {
			p.cannot(w, err)
			return nil
		}
		resp.Header.Set("Location", location)
	}
	for _, name := range []string{"Content-Type", "Content-Length", "Content-Range", "Last-Modified", "Location", "Date"} {
		if v := resp.Header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	w.WriteHeader(resp.StatusCode)
	if resp.StatusCode != http.StatusOK {
		_, err := io.Copy(w, resp.Body)
		return err
	}
	return p.keep(w, resp, file)
}

func (p *Proxy) keep(w io.Writer, resp *http.Response, file string) error {
	f, err := os.CreateTemp(p.fresh, partialPrefix)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // of no effect once it is renamed
	n, err := io.Copy(io.MultiWriter(w, f), resp.Body)
	if err == nil && resp.ContentLength >= 0 && n != resp.ContentLength {
		err = io.ErrUnexpectedEOF
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if changed, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		_ = os.Chtimes(f.Name(), changed, changed)
	}
	return os.Rename(f.Name(), file)
}

// staleTime is how long after its last download a folder of fresh files belongs
// to no living build.
const staleTime = 6 * time.Hour

// Sweep removes what killed builds left in dir, and returns how many bytes dir
// holds.
func Sweep(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var total int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue
		}
		if strings.HasPrefix(e.Name(), freshPrefix) && time.Since(info.ModTime()) > staleTime {
			_ = os.RemoveAll(filepath.Join(dir, e.Name()))
			continue
		}
		total += info.Size()
	}
	return total, nil
}
