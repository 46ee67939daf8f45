package mirror

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// Through a proxy, a program gets https addresses by a tunnel that shows nothing
// of what goes through it. So that they are kept too, it is given plain addresses
// of a host that exists nowhere, with the true address as their path; the Proxy
// asks for that, by https. RFC 6761 keeps .invalid free for ever.
const secureHost = "https.meros.invalid"

const plainPrefix = "http://" + secureHost + "/"

// Plain returns the address by which a program that uses a Proxy gets what is at
// an https address. Others stay as they are.
func Plain(address string) string {
	if rest, ok := strings.CutPrefix(address, "https://"); ok {
		return plainPrefix + rest
	}
	return address
}

// PlainText replaces all https addresses that begin a word in a text.
func PlainText(text string) string {
	if strings.HasPrefix(text, "https://") {
		text = Plain(text)
	}
	for _, before := range []string{" ", "\t", "\n"} {
		text = strings.ReplaceAll(text, before+"https://", before+plainPrefix)
	}
	return text
}

// Shown puts the true addresses back into what a program says.
func Shown(text string) string { return strings.ReplaceAll(text, plainPrefix, "https://") }

// Used reports whether this process was given a Proxy's Env.
func Used(getenv func(string) string) bool {
	return strings.HasPrefix(getenv("http_proxy"), "http://"+proxyUser+":")
}

// Transport gets addresses through the Proxy whose Env this process was given. Go's own
// prefers HTTP_PROXY to http_proxy, and asks this host and those of NO_PROXY itself.
func Transport(getenv func(string) string) (http.RoundTripper, error) {
	proxy, err := url.Parse(getenv("http_proxy"))
	if err != nil {
		return nil, err
	}
	return &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}, nil
}

// proxyUser stands before the password in the address of a Proxy.
const proxyUser = "meros"

// upstream is what a request asks a mirror for.
func upstream(r *http.Request) (*url.URL, error) {
	if r.URL.Host != secureHost {
		return r.URL, nil
	}
	u, err := url.Parse("https:/" + r.URL.RequestURI())
	if err == nil && u.Host == "" {
		err = errors.New("no host in " + r.URL.Path)
	}
	return u, err
}

// forward is the Location that an answer of a mirror is handed on with: one that
// comes to this proxy again. What was asked for by https is never got by http.
func forward(asked *url.URL, location string) (string, error) {
	to, err := asked.Parse(location)
	switch {
	case err != nil:
		return "", err
	case to.Scheme == "https", to.Scheme == "http" && asked.Scheme == "http":
		return Plain(to.String()), nil
	}
	return "", fmt.Errorf("%s sends one on to %s", asked.Redacted(), to.Redacted())
}
