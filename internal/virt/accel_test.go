package virt

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseAccel(t *testing.T) {
	for _, c := range []struct {
		flag, env string
		want      AccelMode
		err       string
	}{
		{"", "", AccelAuto, ""},
		{"", "tcg", AccelTCG, ""},
		{"kvm", "tcg", AccelKVM, ""},
		{"auto", "tcg", AccelAuto, ""},
		{"hvf", "", "", `--accel: "hvf" is no accelerator`},
		{"", "yes", "", `MEROS_ACCEL: "yes" is no accelerator`},
	} {
		got, err := ParseAccel(c.flag, func(string) string { return c.env })
		if got != c.want || c.err == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("ParseAccel(%q, %q) = %q, %v, want %q, %q", c.flag, c.env, got, err, c.want, c.err)
		}
	}
}

func TestChooseAccel(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	device := file("kvm", "")
	closed := file("closed", "")
	if err := os.Chmod(closed, 0o600); err != nil {
		t.Fatal(err)
	}
	intel := file("intel", "processor : 0\nflags\t\t: fpu vmx lm\n")
	none := file("none", "model name : vmx\nflags\t\t: fpu lm\n")
	astray := errors.New("a trial guest goes astray")
	for _, c := range []struct {
		name                  string
		mode                  AccelMode
		arch, device, cpuinfo string
		try                   error
		kvm                   bool
		why                   string
	}{
		{"works", AccelAuto, "amd64", device, intel, nil, true, ""},
		{"no device", AccelAuto, "amd64", filepath.Join(dir, "gone"), intel, nil, false, "no " + dir},
		{"no flag", AccelAuto, "amd64", device, none, nil, false, "no vmx or svm in "},
		{"flag, but astray", AccelAuto, "amd64", device, intel, astray, false, "goes astray: using TCG"},
		{"closed to qemu", AccelAuto, "amd64", closed, intel, nil, false, "libvirt's qemu user: tester may not open"},
		{"closed to the caller only", AccelAuto, "amd64", device, intel, fs.ErrPermission, true, ""},
		{"arm has no flag", AccelAuto, "arm64", device, none, nil, true, ""},
		{"forced kvm", AccelKVM, "amd64", filepath.Join(dir, "gone"), none, astray, true, ""},
		{"forced tcg", AccelTCG, "amd64", device, intel, nil, false, "asked for"},
	} {
		h := kvmHost{
			arch: c.arch, device: c.device, cpuinfo: c.cpuinfo,
			qemu: func() (QEMUUser, error) { return QEMUUser{Name: "tester", UID: 1 << 20}, nil },
			try:  func(context.Context, string) error { return c.try },
		}
		got := h.choose(t.Context(), c.mode)
		if got.KVM != c.kvm || !strings.Contains(got.Why, c.why) || (got.Why == "") != c.kvm {
			t.Errorf("%s: choose = %+v, want KVM %v, why %q", c.name, got, c.kvm, c.why)
		}
	}
}

// A host's KVM either runs the trial guest or says within two seconds that it
// does not; both are results.
func TestTryKVMEnds(t *testing.T) {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		t.Skip("no /dev/kvm")
	}
	start := time.Now()
	err := tryKVM(t.Context(), "/dev/kvm")
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("tryKVM took %v", took)
	}
	t.Logf("KVM here: %v", err)
}

func TestTryKVMNotKVM(t *testing.T) {
	if err := tryKVM(t.Context(), "/dev/null"); err == nil || !strings.Contains(err.Error(), "is not KVM's") {
		t.Errorf("tryKVM(/dev/null) = %v", err)
	}
}
