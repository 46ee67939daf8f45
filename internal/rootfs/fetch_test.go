package rootfs

import (
	"fmt"
	"net/http"
	"net/http/httptest"
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
