package mirror

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"sync"
)

// Stage is a part of a build that downloads. What it gets is judged when it ends.
type Stage struct {
	proxy *Proxy
	token string
	dir   string // for what it fetched and what may be other tomorrow, such as indexes

	mu    sync.Mutex
	asked map[string]bool // names of the files that it was answered with
}

// Stage begins a stage. End it.
func (p *Proxy) Stage() (*Stage, error) {
	secret := make([]byte, 16)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(p.fresh, stagePrefix)
	if err != nil {
		return nil, err
	}
	s := &Stage{proxy: p, token: hex.EncodeToString(secret), dir: dir, asked: map[string]bool{}}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stages[s] = true
	return s, nil
}

// Env are the variables by which programs of the stage find the proxy. Others on
// this host may see its port but not its password.
func (s *Stage) Env() []string {
	return []string{"http_proxy=http://" + proxyUser + ":" + s.token + "@" + s.proxy.address}
}

// Result is how a stage ended.
type Result int

const (
	// Good: all that it fetched was what it should be.
	Good Result = iota
	// Failed: its packages are kept, and its indexes are not. They would take the place
	// of those that an offline build can still work with.
	Failed
	// Damaged: a file was not what it should be. None of those that the stage got is
	// kept, be it from a mirror or from an earlier build. Offline all are: there is
	// nowhere to get them anew, and one of many is damaged.
	Damaged
)

// End ends a stage.
func (s *Stage) End(r Result) error {
	p := s.proxy
	p.mu.Lock()
	delete(p.stages, s)
	p.mu.Unlock()
	var errs []error
	switch {
	case r == Good:
		errs = append(errs, moveFiles(s.dir, p.fresh))
	case r == Damaged && !p.offline:
		s.mu.Lock()
		defer s.mu.Unlock()
		for name := range s.asked {
			for _, dir := range []string{p.fresh, p.dir} {
				if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
					errs = append(errs, err)
				}
			}
		}
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// again notes that the stage asks for a file, and reports whether it did before:
// then the answer was not what it should have been, since nobody else asks twice for
// what never changes.
func (s *Stage) again(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.asked[name]
	s.asked[name] = true
	return before
}

// stageOf is the stage that a request comes from, or nil.
func (p *Proxy) stageOf(r *http.Request) *Stage {
	got := []byte(r.Header.Get("Proxy-Authorization"))
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.stages {
		want := "Basic " + base64.StdEncoding.EncodeToString([]byte(proxyUser+":"+s.token))
		if subtle.ConstantTimeCompare(got, []byte(want)) == 1 {
			return s
		}
	}
	return nil
}
