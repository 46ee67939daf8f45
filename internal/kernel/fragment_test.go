package kernel_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"meros/internal/hint"
	"meros/internal/kernel"
)

// shipped are the fragments that meros comes with.
const shipped = "../../conf/kernel"

func fragments(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAsksMergeInOrder(t *testing.T) {
	dir := fragments(t, map[string]string{
		"a.config":        "# A comment.\nCONFIG_A=y\nCONFIG_LSM=\"one\"\n# CONFIG_OFF is not set\n?CONFIG_MAYBE=y\n",
		"a.x86_64.config": "CONFIG_X86=y\n",
		"a.arm64.config":  "CONFIG_ARM=y\n",
		"b.config":        "CONFIG_LSM=\"one,two\"\nCONFIG_N=32\n\n  CONFIG_HEX=0x10  \n",
	})
	asks, err := kernel.Asks(dir, "x86_64", []string{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	want := "CONFIG_A=y\nCONFIG_LSM=\"one,two\"\n# CONFIG_OFF is not set\nCONFIG_MAYBE=y\nCONFIG_X86=y\nCONFIG_N=32\nCONFIG_HEX=0x10\n"
	if got := kernel.Seed(asks); got != want {
		t.Errorf("Seed = %q, want %q", got, want)
	}
	if asks[1].File != filepath.Join(dir, "b.config") || asks[1].Line != 1 {
		t.Errorf("the last word is from %s:%d, want b.config:1", asks[1].File, asks[1].Line)
	}
}

func TestAsksFaults(t *testing.T) {
	dir := fragments(t, map[string]string{
		"a.config": "CONFIG_A=y\nCONFIG_B=m\nfoo\nCONFIG_C=yes\nCONFIG_D=y # why\n",
	})
	_, err := kernel.Asks(dir, "x86_64", []string{"a"})
	for _, want := range []string{"a.config:2:", "a.config:3:", "a.config:4:", "a.config:5:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Asks = %v, want a fault at %s", err, want)
		}
	}
	if !slices.Contains(hint.Of(err), "the kernel has no modules: write =y") {
		t.Errorf("hints = %q, want one on =m", hint.Of(err))
	}
	_, err = kernel.Asks(dir, "x86_64", []string{"nonesuch"})
	if err == nil || !strings.Contains(err.Error(), "nonesuch") || !slices.Contains(hint.Of(err), "there are: a") {
		t.Errorf("Asks of a missing fragment = %v, %q", err, hint.Of(err))
	}
	if _, err = kernel.Asks(dir, "x86_64", []string{"../a"}); err == nil {
		t.Error("Asks took ../a as a name")
	}
}

func TestUnmet(t *testing.T) {
	dir := fragments(t, map[string]string{"a.config": strings.Join([]string{
		"CONFIG_OK=y", "CONFIG_LOST=y", "CONFIG_OFF=y", "# CONFIG_FORCED is not set", "# CONFIG_GONE is not set",
		"?CONFIG_NEW=y", "?CONFIG_OLD=y", "CONFIG_TEXT=\"a\"", "CONFIG_NUM=3", "?CONFIG_OTHER=5",
	}, "\n")})
	asks, err := kernel.Asks(dir, "x86_64", []string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	config := "CONFIG_OK=y\n# CONFIG_OFF is not set\nCONFIG_FORCED=y\n# CONFIG_OLD is not set\nCONFIG_TEXT=\"b\"\nCONFIG_NUM=3\nCONFIG_OTHER=6\n"
	err = kernel.Unmet(asks, config)
	if err == nil {
		t.Fatal("Unmet = nil, want faults")
	}
	got := strings.Split(err.Error(), "\n")
	for i, want := range []string{"a.config:2: CONFIG_LOST=y", "a.config:3: CONFIG_OFF=y", "a.config:4: CONFIG_FORCED", "a.config:8: CONFIG_TEXT=", "a.config:10: CONFIG_OTHER=5"} {
		if i >= len(got) || !strings.Contains(got[i], want) {
			t.Errorf("fault %d is not on %q in:\n%v", i, want, err)
		}
	}
	if len(got) != 5 {
		t.Errorf("%d faults, want 5:\n%v", len(got), err)
	}
	ok := "CONFIG_OK=y\nCONFIG_LOST=y\nCONFIG_OFF=y\nCONFIG_TEXT=\"a\"\nCONFIG_NUM=3\nCONFIG_OTHER=5\n"
	if err := kernel.Unmet(asks, ok); err != nil {
		t.Errorf("Unmet of a config that has all = %v", err)
	}
}

// The final configurations of 6.1 lie in testdata: see docs/kernel.md for how they
// are made anew.
func TestShippedFragmentsAreMet(t *testing.T) {
	conf, err := kernel.ReadConf(filepath.Join(shipped, "kernel.conf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"x86_64", "arm64"} {
		asks, err := kernel.Asks(shipped, arch, conf.Fragments)
		if err != nil {
			t.Fatal(err)
		}
		config, err := os.ReadFile("testdata/" + arch + ".config")
		if err != nil {
			t.Fatal(err)
		}
		if err := kernel.Unmet(asks, string(config)); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
	}
}

// advised are recommendations of the kernel self-protection project that are not
// on by themselves in an all-no configuration.
var advised = map[string][]string{
	"x86_64": {"X86_KERNEL_IBT", "X86_UMIP", "RANDOMIZE_MEMORY", "SLS"},
	"arm64":  {"ARM64_PTR_AUTH_KERNEL", "ARM64_BTI_KERNEL", "ARM64_E0PD", "ARM64_SW_TTBR0_PAN", "UNMAP_KERNEL_AT_EL0"},
	"": {
		"DEFAULT_MMAP_MIN_ADDR", "DEBUG_CREDENTIALS", "DEBUG_LIST", "LIST_HARDENED", "RANDOM_KMALLOC_CACHES", "CFI_CLANG", "SHADOW_CALL_STACK",
		"INIT_ON_ALLOC_DEFAULT_ON", "INIT_ON_FREE_DEFAULT_ON", "HARDENED_USERCOPY", "FORTIFY_SOURCE", "SLAB_FREELIST_HARDENED", "RANDOMIZE_KSTACK_OFFSET_DEFAULT",
		"KFENCE", "UBSAN_BOUNDS", "ZERO_CALL_USED_REGS", "BUG_ON_DATA_CORRUPTION", "SCHED_STACK_END_CHECK", "LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY",
	},
}

// Each is asked for, or stands in hardening.config with the reason why not.
func TestHardeningIsAskedForOrLeftOut(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(shipped, "hardening.config"))
	if err != nil {
		t.Fatal(err)
	}
	_, left, _ := strings.Cut(string(text), "# Left out, and why:")
	for _, arch := range []string{"x86_64", "arm64"} {
		asks, err := kernel.Asks(shipped, arch, []string{"hardening"})
		if err != nil {
			t.Fatal(err)
		}
		for _, symbol := range slices.Concat(advised[""], advised[arch]) {
			asked := slices.ContainsFunc(asks, func(a kernel.Ask) bool { return a.Symbol == "CONFIG_"+symbol && a.Value != "n" })
			if !asked && !strings.Contains(left, symbol) {
				t.Errorf("%s: hardening neither asks for %s nor says why not", arch, symbol)
			}
		}
	}
}

func TestShippedFragmentsAreCommented(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(shipped, "*.config"))
	if err != nil || len(files) < 7 {
		t.Fatalf("%d fragments, %v", len(files), err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if name, _, _ := strings.Cut(filepath.Base(file), "."); !strings.HasPrefix(string(content), "# "+name) {
			t.Errorf("%s does not begin with a comment on what it is for", file)
		}
	}
}

func FuzzUnmet(f *testing.F) {
	f.Add("CONFIG_A=y\n# CONFIG_B is not set\n", "CONFIG_A=y")
	f.Fuzz(func(t *testing.T, fragment, config string) {
		dir := fragments(t, map[string]string{"a.config": fragment})
		if asks, err := kernel.Asks(dir, "x86_64", []string{"a"}); err == nil {
			if err := kernel.Unmet(asks, kernel.Seed(asks)); err != nil {
				t.Errorf("what is asked for does not meet itself: %v", err)
			}
			_ = kernel.Unmet(asks, config)
		}
	})
}
