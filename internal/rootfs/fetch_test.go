package rootfs

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// All of a stage's downloads go through the build's own proxy, which keeps them,
// whatever else the caller's environment says of proxies.
func TestGetGoesThroughTheBuildsProxy(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.URL)
	}))
	defer server.Close()
	t.Setenv("http_proxy", "http://meros:secret@"+strings.TrimPrefix(server.URL, "http://"))
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("NO_PROXY", "*")
	for address, want := range map[string]string{
		"https://mirror.invalid/alpine/x": "http://https.meros.invalid/mirror.invalid/alpine/x",
		"http://mirror.invalid/alpine/x":  "http://mirror.invalid/alpine/x",
		"http://127.0.0.1:1/alpine/x":     "http://127.0.0.1:1/alpine/x",
	} {
		var asked strings.Builder
		if err := get(t.Context(), address, &asked, 1000); err != nil || asked.String() != want {
			t.Errorf("get %s asks the proxy for %q (%v), want %q", address, &asked, err, want)
		}
	}
}

// apt goes straight to a host of no_proxy, past what the build's proxy keeps.
func TestToolsGoThroughTheBuildsProxy(t *testing.T) {
	t.Setenv("no_proxy", "mirror.invalid")
	for address, heeded := range map[string]bool{
		"http://meros:secret@127.0.0.1:1": false,
		"http://proxy.invalid:3128":       true,
	} {
		t.Setenv("http_proxy", address)
		if env := toolEnv(); slices.Contains(env, "no_proxy=mirror.invalid") != heeded || !slices.Contains(env, "http_proxy="+address) {
			t.Errorf("behind %s tools get %q, want no_proxy there: %t", address, env, heeded)
		}
	}
}
