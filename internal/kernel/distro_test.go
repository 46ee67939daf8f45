package kernel

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/layout"
	"meros/internal/proc"
	"meros/internal/ui"
)

// aptBench is a Builder whose apt knows a linux-source and speaks German unless it
// is asked not to, as the real one does.
func aptBench(t *testing.T) (b Builder, said *bytes.Buffer) {
	t.Helper()
	bin, packed := t.TempDir(), filepath.Join(t.TempDir(), "linux-source-6.1")
	for name, content := range map[string]string{
		packed + "/Makefile": "",
		bin + "/apt-cache":   "#!/bin/sh\nword=Hängt\\ ab\ntest \"$LC_ALL\" != C || word=Depends\necho linux-source\necho \"  $word: linux-source-6.1\"\n",
		bin + "/apt-get":     "#!/bin/sh\ntouch linux-source-6.1_1_all.deb\n",
		bin + "/dpkg-deb":    "#!/bin/sh\nmkdir -p $3/usr/src\ntar -czf $3/usr/src/linux-source-6.1.tar.gz -C " + filepath.Dir(packed) + " linux-source-6.1\n",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	said = &bytes.Buffer{}
	return Builder{Streams: &ui.Streams{Err: said}, Runner: proc.Host{}, Paths: layout.Paths{Root: t.TempDir()}}, said
}

func TestAptSource(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("this host has no tar")
	}
	b, said := aptBench(t)
	tree, err := b.aptSource(t.Context())
	if err != nil || !strings.HasPrefix(tree.Origin, "linux-source-6.1_1_all.deb (sha256 ") {
		t.Fatalf("aptSource = %+v, %v\n%s", tree, err, said)
	}
	if _, err := os.Stat(filepath.Join(tree.Dir, "Makefile")); err != nil {
		t.Error(err)
	}
}
