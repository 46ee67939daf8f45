package mirror

import (
	"crypto/sha256"
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

	"meros/internal/stall"
)

// Proxy serves one build. Close it.
type Proxy struct {
	dir     string
	offline bool
	server  *http.Server
	client  *http.Client
	address string
	stall   time.Duration // how long a mirror may send nothing
	give    func(path string) error

	fresh string // folder of what this build fetched, until it ends

	mu     sync.Mutex
	stages map[*Stage]bool
	silent map[string]error // hosts that were given up, and why
	fault  error
}

// Fault is the last reason for which a mirror could not be asked, or nil: package
// managers only tell that it could not.
func (p *Proxy) Fault() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault
}

// silentTime is how long a mirror may send nothing: less than the 30 s after which apt
// asks anew (apt-transport-http(1)), which would be taken for a request of its own.
const silentTime = 20 * time.Second

// Start starts a proxy that keeps its files in dir, where give makes each its owner's.
// Offline it asks no other host, and answers 404 for what it does not have.
func Start(dir string, offline bool, give func(path string) error) (*Proxy, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
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
		dir: dir, fresh: fresh, offline: offline, address: l.Addr().String(), stall: silentTime, give: give,
		stages: map[*Stage]bool{}, silent: map[string]error{},
		// No overall limit: packages may be large and mirrors slow.
		client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = p.server.Serve(l) }()
	return p, nil
}

// Close ends the proxy, after its stages.
func (p *Proxy) Close() error {
	err := p.server.Close()
	files, readErr := os.ReadDir(p.fresh)
	if len(files) > 0 {
		err = errors.Join(err, p.sync(), moveFiles(p.fresh, p.dir))
	}
	return errors.Join(err, readErr, os.RemoveAll(p.fresh))
}

// moveFiles moves the whole answers in a folder to another.
func moveFiles(from, to string) error {
	files, err := os.ReadDir(from)
	errs := []error{err}
	for _, f := range files {
		if !f.IsDir() && !strings.HasPrefix(f.Name(), partialPrefix) {
			errs = append(errs, os.Rename(filepath.Join(from, f.Name()), filepath.Join(to, f.Name())))
		}
	}
	return errors.Join(errs...)
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
const freshPrefix, stagePrefix, partialPrefix = "fresh-", "stage-", "partial-"

// ServeHTTP implements http.Handler for requests of the form that proxies get.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := p.stageOf(r)
	switch {
	case s == nil:
		w.Header().Set("Proxy-Authenticate", "Basic realm=meros")
		http.Error(w, "this proxy is a build's own", http.StatusProxyAuthRequired)
	case r.Method != http.MethodGet || r.URL.Scheme != "http" || r.URL.Host == "":
		http.Error(w, "only GET of http addresses", http.StatusMethodNotAllowed)
	default:
		s.get(w, r)
	}
}

// nameOf is the name under which the answer for an address is kept.
func nameOf(u *url.URL) string {
	sum := sha256.Sum256([]byte(u.String()))
	return hex.EncodeToString(sum[:]) + path.Ext(u.Path)
}

func (s *Stage) get(w http.ResponseWriter, r *http.Request) {
	from, err := upstream(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	p, name := s.proxy, nameOf(from)
	again := s.again(name)
	if p.offline || immutable(from.Path) && !again {
		for _, dir := range []string{p.fresh, p.dir} {
			if p.serveFile(w, r, filepath.Join(dir, name)) {
				return
			}
		}
	}
	if p.offline {
		// Not a 5xx: apt would try those again and again.
		http.Error(w, "not kept from an earlier build", http.StatusNotFound)
		return
	}
	to := s.dir
	if immutable(from.Path) {
		to = p.fresh
	}
	if err := p.fetch(w, r, from, filepath.Join(to, name)); err != nil {
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
	_ = os.Chtimes(file, time.Now(), info.ModTime()) // used today: see Prune
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", info.ModTime(), f)
	return true
}

// cannot answers that a mirror could not be asked.
func (p *Proxy) cannot(w http.ResponseWriter, from *url.URL, err error) {
	p.note(from, err)
	http.Error(w, err.Error(), http.StatusBadGateway)
}

// note keeps why a mirror could not be asked. One that fell silent is not asked
// again: package managers would wait for it file by file, and try each anew.
func (p *Proxy) note(from *url.URL, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fmt.Errorf("%s: %w", from.Host, err)
	if errors.Is(err, stall.ErrSilent) {
		p.silent[from.Host] = err
	}
}

func (p *Proxy) whySilent(from *url.URL) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.silent[from.Host]
}

// fetch hands on the mirror's answer and keeps it if it is whole.
func (p *Proxy) fetch(w http.ResponseWriter, r *http.Request, from *url.URL, file string) error {
	if err := p.whySilent(from); err != nil {
		p.cannot(w, from, err)
		return nil
	}
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, from.String(), http.NoBody)
	if err != nil {
		return err
	}
	for _, name := range []string{"User-Agent", "Range", "If-Range", "If-Modified-Since", "Cache-Control"} {
		if v := r.Header.Get(name); v != "" {
			req.Header.Set(name, v)
		}
	}
	resp, err := stall.Do(p.client, req, p.stall)
	if err != nil {
		p.cannot(w, from, err)
		return nil
	}
	defer resp.Body.Close()
	if location := resp.Header.Get("Location"); location != "" {
		if location, err = forward(from, location); err != nil {
			p.cannot(w, from, err)
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
		_, err = io.Copy(w, resp.Body)
	} else {
		err = p.keep(w, resp, file)
	}
	if errors.Is(err, stall.ErrSilent) {
		p.note(from, err)
	}
	return err
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
	// For the builds of others too: an archive's files are no secret.
	if err := errors.Join(err, f.Chmod(0o644), f.Close(), p.give(f.Name())); err != nil {
		return err
	}
	if changed, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		_ = os.Chtimes(f.Name(), time.Now(), changed)
	}
	return os.Rename(f.Name(), file)
}
