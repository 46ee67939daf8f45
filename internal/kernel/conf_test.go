package kernel_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/kernel"
)

func TestShippedConfPinsASource(t *testing.T) {
	c, err := kernel.ReadConf(filepath.Join(shipped, "kernel.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Tag != "v"+c.Version || !strings.Contains(c.Tarball, "-"+c.Version+".tar") {
		t.Errorf("version %s, tag %s and tarball %s differ", c.Version, c.Tag, c.Tarball)
	}
	if len(c.SHA256) != 64 || len(c.Signers) == 0 {
		t.Errorf("sha256 %q, signers %v: the source cannot be verified", c.SHA256, c.Signers)
	}
}

func TestConfFaults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kernel.conf")
	for content, want := range map[string]string{
		"version = 6.1\nfragments = base\nbranch = master": `kernel.conf:3: unknown name "branch"`,
		"version = six":               "kernel.conf:1: version:",
		"version = 6.1\nnonsense":     "kernel.conf:2: want name = value",
		"version = 6.1":               "version and fragments have to be there",
		"git = --upload-pack=x":       "kernel.conf:1: git:",
		"git = ext::sh -c id":         "kernel.conf:1: git:",
		"tag = -x":                    "kernel.conf:1: tag:",
		"sha256 = abc":                "kernel.conf:1: sha256:",
		"fragments = base ../../etc":  "kernel.conf:1: fragments:",
		"signers = 647F 28654894E3BD": "kernel.conf:1: signers:",
	} {
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := kernel.ReadConf(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ReadConf(%q) = %v, want %q", content, err, want)
		}
	}
}
