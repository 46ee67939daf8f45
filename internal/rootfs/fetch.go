package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"

	"meros/internal/hint"
	"meros/internal/mirror"
	"meros/internal/stall"
)

// maxRedirects is how often a mirror may send one on.
const maxRedirects = 5

// ErrMirror is wrapped when a mirror cannot be reached or has not what is asked.
var ErrMirror = errors.New("mirror")

// get copies what lies at a mirror's address to w, at most limit bytes. Mirrors
// are http, https or file.
func get(ctx context.Context, address string, w io.Writer, limit int64) error {
	body, err := open(ctx, address)
	if err != nil {
		return hint.Add(fmt.Errorf("%w: %s: %w", ErrMirror, address, err), "check the network, and mirror= and release= in the build XML")
	}
	defer body.Close()
	n, err := io.Copy(w, io.LimitReader(body, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("more than the %d bytes that it may have", limit)
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrMirror, address, err)
	}
	return nil
}

// open gives up a mirror that falls silent.
func open(ctx context.Context, address string) (io.ReadCloser, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "file" {
		return os.Open(u.Path)
	}
	client := &http.Client{CheckRedirect: checkRedirect}
	if mirror.Used(os.Getenv) {
		address = mirror.Plain(address)
		if client.Transport, err = mirror.Transport(os.Getenv); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := stall.Do(client, req, stall.Time)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, errors.New("answers " + resp.Status)
	}
	return resp.Body, nil
}

// checkRedirect follows only to what is as safe as the address before: never
// from https to http, never to a file of this host.
func checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return errors.New("sends one on without end")
	case req.URL.Scheme != "https" && req.URL.Scheme != via[0].URL.Scheme:
		return fmt.Errorf("sends one on to %s", req.URL.Redacted())
	}
	return nil
}

// getVerified downloads to the file to, and makes sure that it has the hash.
func getVerified(ctx context.Context, address, to, sha256sum string, limit int64) (err error) {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			os.Remove(to)
		}
	}()
	h := sha256.New()
	if err := get(ctx, address, io.MultiWriter(f, h), limit); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sha256sum {
		return hint.Add(fmt.Errorf("%w: %s: its sha256 is %s, the mirror's index says %s", ErrMirror, path.Base(address), got, sha256sum),
			"the download is damaged or tampered with: try again, or take another mirror")
	}
	return nil
}
