package stall_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"meros/internal/stall"
)

// ask reads what is at an address through Do.
func ask(t *testing.T, ctx context.Context, address string, limit, pause time.Duration) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := stall.Do(http.DefaultClient, req, limit)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	time.Sleep(pause)
	content, err := io.ReadAll(resp.Body)
	return string(content), err
}

func TestSilentServersAreGivenUp(t *testing.T) {
	ended := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/silent", func(http.ResponseWriter, *http.Request) { <-ended })
	mux.HandleFunc("/midway", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "some")
		w.(http.Flusher).Flush()
		<-ended
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		for range 5 {
			fmt.Fprint(w, "x")
			w.(http.Flusher).Flush()
			time.Sleep(200 * time.Millisecond)
		}
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	defer close(ended)
	for _, path := range []string{"/silent", "/midway"} {
		started := time.Now()
		_, err := ask(t, t.Context(), server.URL+path, 300*time.Millisecond, 0)
		if !errors.Is(err, stall.ErrSilent) || err.Error() != "nothing came for 300ms" {
			t.Errorf("%s: %v, want it given up", path, err)
		}
		if took := time.Since(started); took > 10*time.Second {
			t.Errorf("%s: given up after %s", path, took)
		}
	}
	// Neither a server that sends all the time nor a reader that takes its own is
	// given up, however long both take.
	if got, err := ask(t, t.Context(), server.URL+"/slow", 900*time.Millisecond, time.Second); got != "xxxxx" || err != nil {
		t.Errorf("a slow server gave %q, %v", got, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("interrupted")
	time.AfterFunc(100*time.Millisecond, func() { cancel(why) })
	if _, err := ask(t, ctx, server.URL+"/silent", 30*time.Second, 0); !errors.Is(err, why) {
		t.Errorf("a request that the caller ends: %v, want %v", err, why)
	}
}
