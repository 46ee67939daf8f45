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
// is asked not to, as the real one does. The source is the package's version.
type aptBench struct {
	Builder
	bin  string
	said bytes.Buffer
}

func newAptBench(t *testing.T) *aptBench {
	t.Helper()
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("this host has no tar")
	}
	b := &aptBench{bin: t.TempDir()}
	b.Builder = Builder{Streams: &ui.Streams{Err: &b.said}, Runner: proc.Host{}, Paths: layout.Paths{Root: t.TempDir()}}
	for name, content := range map[string]string{
		"apt-cache": `case $1 in
depends) word="Hängt ab"; test "$LC_ALL" != C || word=Depends; echo linux-source; echo "  $word: linux-source-6.1" ;;
show) echo "Version: $(cat ` + b.bin + `/version)" ;;
esac`,
		"apt-get": `echo "$@" >>` + b.bin + `/calls; cp ` + b.bin + `/version linux-source-6.1_1_all.deb`,
		"dpkg-deb": `mkdir -p $3/linux $3/usr/src; cp $2 $3/linux/Makefile
tar -czf $3/usr/src/linux-source-6.1.tar.gz -C $3 linux`,
	} {
		b.write(t, name, "#!/bin/sh\n"+content+"\n")
	}
	t.Setenv("PATH", b.bin+":"+os.Getenv("PATH"))
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	return b
}

func (b *aptBench) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.bin, name), []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

// want gets the source and checks which one it is, and how often apt-get was called
// for it.
func (b *aptBench) want(t *testing.T, version string, calls int) Tree {
	t.Helper()
	tree, err := b.aptSource(t.Context())
	if err != nil || !strings.HasPrefix(tree.Origin, "linux-source-6.1 "+version+" (sha256 ") {
		t.Fatalf("aptSource = %+v, %v, want version %s\n%s", tree, err, version, &b.said)
	}
	if content, err := os.ReadFile(filepath.Join(tree.Dir, "Makefile")); err != nil || string(content) != version {
		t.Errorf("the source is %q, %v, want %s", content, err, version)
	}
	made, _ := os.ReadFile(filepath.Join(b.bin, "calls"))
	if n := strings.Count(string(made), "download linux-source-6.1"); n != calls {
		t.Errorf("the package was downloaded %d times, want %d", n, calls)
	}
	_ = os.Remove(filepath.Join(b.bin, "calls"))
	return tree
}

// What is unpacked of the package that apt knows is not downloaded again.
func TestAptSource(t *testing.T) {
	b := newAptBench(t)
	b.write(t, "version", "6.1.1-1")
	b.Offline = true
	if _, err := b.aptSource(t.Context()); err == nil || !strings.Contains(err.Error(), "the package linux-source-6.1 6.1.1-1: not here yet") {
		t.Errorf("offline, without a source: %v", err)
	}
	b.Offline = false
	first := b.want(t, "6.1.1-1", 1)
	if again := b.want(t, "6.1.1-1", 0); again != first {
		t.Errorf("the second call gives %+v, the first %+v", again, first)
	}
	b.write(t, "version", "6.1.2-1")
	b.Offline = true
	b.want(t, "6.1.1-1", 0)
	b.Offline = false
	second := b.want(t, "6.1.2-1", 1)
	if second.ID == first.ID {
		t.Errorf("two versions have one ID: %s", first.ID)
	}
	if err := os.RemoveAll(second.Dir); err != nil {
		t.Fatal(err)
	}
	b.want(t, "6.1.2-1", 1)
}
