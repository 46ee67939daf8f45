package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/proc"
)

// newSigner makes a key in a keyring of its own and returns its fingerprint and
// what signs with it.
func newSigner(t *testing.T) (home, fingerprint string, sign func(data []byte) []byte) {
	t.Helper()
	if _, err := exec.LookPath("gpg"); err != nil {
		t.Skip(err)
	}
	// A socket of gpg-agent's has to fit into 108 bytes.
	home, err := os.MkdirTemp("", "gpg-")
	if err != nil {
		t.Fatal(err)
	}
	run := func(in []byte, args ...string) []byte {
		t.Helper()
		cmd := exec.Command("gpg", append([]string{"--homedir", home, "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"}, args...)...)
		cmd.Stdin = bytes.NewReader(in)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("gpg %v: %v", args, err)
		}
		return out
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		os.RemoveAll(home)
	})
	run(nil, "--quick-generate-key", "release <r@example.invalid>", "rsa2048", "sign", "never")
	for line := range strings.Lines(string(run(nil, "--with-colons", "--list-keys"))) {
		if fields := strings.Split(line, ":"); fields[0] == "fpr" && fingerprint == "" {
			fingerprint = fields[9]
		}
	}
	return home, fingerprint, func(data []byte) []byte { return run(data, "--armor", "--detach-sign") }
}

func TestMinirootfsSignature(t *testing.T) {
	needRoot(t)
	home, signer, sign := newSigner(t)
	otherHome, _, otherSign := newSigner(t)
	folderEntry := func(name string) entry { return entry{tar.Header{Name: name, Typeflag: tar.TypeDir}, ""} }
	mini := archive(t, folderEntry("etc"), folderEntry("dev"), file("etc/passwd", "x"))
	const name = "alpine-minirootfs-3.20.3-x86_64.tar.gz"
	var signature []byte // nil: the mirror has none
	mux := http.NewServeMux()
	folder := "/v3.20/releases/x86_64/"
	mux.HandleFunc(folder+"latest-releases.yaml", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "- flavor: alpine-minirootfs\n  file: %s\n  sha256: %x\n", name, sha256.Sum256(mini))
	})
	mux.HandleFunc(folder+name, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(mini) })
	mux.HandleFunc(folder+name+".asc", func(w http.ResponseWriter, r *http.Request) {
		if signature == nil {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(signature)
	})
	mirror := httptest.NewServer(mux)
	defer mirror.Close()
	none := filepath.Join(t.TempDir(), "none")
	for _, tt := range []struct {
		name, home string
		signature  []byte
		want       string // of the error; "": none
	}{
		{"good", home, sign(mini), ""},
		{"of another file", home, sign([]byte("other")), "no good signature"},
		{"by another key", home, otherSign(mini), "no good signature"},
		{"none at the mirror", home, nil, "404"},
		{"no signature", home, []byte("<html>"), "no good signature"},
		{"the key is not known", otherHome, otherSign(mini), ""},
		{"no keyring", none, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("GNUPGHOME", tt.home)
			signature = tt.signature
			root, out := t.TempDir(), t.TempDir()
			err := alpineBootstrap(context.Background(), proc.Host{}, root, AlpineBootstrap{Mirror: mirror.URL, Branch: "v3.20", Arch: "x86_64", Out: out, Signer: signer})
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "bootstrap alpine v3.20")):
				t.Errorf("%v, want an error with %q", err, tt.want)
			}
			if _, statErr := os.Stat(filepath.Join(root, "etc/passwd")); (statErr == nil) != (err == nil) {
				t.Errorf("with error %v the tree is there: %v", err, statErr == nil)
			}
			if left, _ := os.ReadDir(out); len(left) != 0 {
				t.Errorf("%s is left", left[0].Name())
			}
		})
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("gpg made a keyring")
	}
}
