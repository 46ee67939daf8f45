package layout_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/layout"
)

func TestCheckFamilyRefusesWhatIsNoName(t *testing.T) {
	for _, bad := range []string{"", "a/b", "..", ".", "a b", "Mos", "mos-sec", "1a", "a\n", "ä", strings.Repeat("a", 200)} {
		if layout.CheckFamily(bad) == nil {
			t.Errorf("CheckFamily(%q) = nil, want an error", bad)
		}
	}
	for _, good := range []string{"mos_demo", "a", "x9"} {
		if err := layout.CheckFamily(good); err != nil {
			t.Errorf("CheckFamily(%q) = %v, want nil", good, err)
		}
	}
}

func TestSplitFullID(t *testing.T) {
	family, target, err := layout.SplitFullID("mos_sec-guest-2")
	if family != "mos_sec" || target != "guest-2" || err != nil {
		t.Errorf("SplitFullID = %q, %q, %v", family, target, err)
	}
	for _, bad := range []string{"mos_sec", "mos_sec-", "-guest", "mos_sec-../x", "mos_sec-A"} {
		if _, _, err := layout.SplitFullID(bad); err == nil {
			t.Errorf("SplitFullID(%q) gave no error", bad)
		}
	}
}

func mkRoot(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "conf", "target"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestFindRootOrder(t *testing.T) {
	flag, env, here, own := mkRoot(t), mkRoot(t), mkRoot(t), t.TempDir()
	if err := os.MkdirAll(filepath.Join(own, "meros", "conf", "target"), 0o755); err != nil {
		t.Fatal(err)
	}
	getenv := func(vars map[string]string) func(string) string {
		return func(k string) string { return vars[k] }
	}
	nowhere := t.TempDir()
	tests := []struct {
		flag string
		env  map[string]string
		dir  string
		want string
	}{
		{flag, map[string]string{"MEROS_ROOT": env}, here, flag},
		{"", map[string]string{"MEROS_ROOT": env}, here, env},
		{"", nil, filepath.Join(here, "conf", "target"), here},
		{"", map[string]string{"XDG_DATA_HOME": own}, nowhere, filepath.Join(own, "meros")},
		{"", nil, nowhere, ""},
		{nowhere, map[string]string{"MEROS_ROOT": env}, here, ""},
	}
	for _, tt := range tests {
		got, err := layout.FindRoot(tt.flag, getenv(tt.env), tt.dir)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("FindRoot(%q, %v, %q) = %q, %v, want %q", tt.flag, tt.env, tt.dir, got, err, tt.want)
		}
	}
}

func TestWriteFileIsWholeWithItsMode(t *testing.T) {
	p := layout.Paths{Root: mkRoot(t)}
	path := p.ClientKey("mos_demo-box")
	for _, content := range []string{"first", "second"} {
		if err := p.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Errorf("content = %q, %v, want %q", got, err, content)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v, want 0600", info.Mode(), err)
	}
	left, _ := os.ReadDir(filepath.Dir(path))
	if len(left) != 1 {
		t.Errorf("%d files in the folder, want 1: a temporary file was left", len(left))
	}
}

func TestLockSaysWhoHoldsIt(t *testing.T) {
	p := layout.Paths{Root: mkRoot(t)}
	unlock, err := p.Lock(t.Context(), "mos_demo", "build mos_demo", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Lock(t.Context(), "mos_demo", "init", nil); !errors.Is(err, layout.ErrLocked) || !strings.Contains(err.Error(), "build mos_demo (process ") {
		t.Errorf("second Lock = %v, want ErrLocked naming the holder", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = p.Lock(ctx, "mos_demo", "init", func(holder string) {
		if !strings.HasPrefix(holder, "build mos_demo") {
			t.Errorf("waiting for %q, want build mos_demo", holder)
		}
		cancel()
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled Lock = %v, want context.Canceled", err)
	}
	unlock()
	again, err := p.Lock(t.Context(), "mos_demo", "init", nil)
	if err != nil {
		t.Fatalf("Lock after unlock: %v", err)
	}
	again()
}

func TestSudoOwner(t *testing.T) {
	env := func(k string) string { return map[string]string{"SUDO_UID": "1000", "SUDO_GID": "1001"}[k] }
	if got, want := layout.SudoOwner(0, env), (layout.Owner{UID: 1000, GID: 1001}); got != want {
		t.Errorf("SudoOwner = %v, want %v", got, want)
	}
	if got := layout.SudoOwner(1000, env); got != (layout.Owner{}) {
		t.Errorf("SudoOwner as a user = %v, want none", got)
	}
	bad := func(string) string { return "-1; rm" }
	if got := layout.SudoOwner(0, bad); got != (layout.Owner{}) {
		t.Errorf("SudoOwner with bad variables = %v, want none", got)
	}
}

func FuzzSplitFullID(f *testing.F) {
	f.Add("mos_sec-guest")
	f.Add("a-../../x")
	f.Fuzz(func(t *testing.T, id string) {
		family, target, err := layout.SplitFullID(id)
		if err == nil && (strings.ContainsAny(id, "/. \n\x00") || family+"-"+target != id) {
			t.Errorf("SplitFullID(%q) accepted %q, %q", id, family, target)
		}
	})
}
