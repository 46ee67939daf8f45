package rootfs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"meros/internal/family"
	"meros/internal/proc"
	"meros/internal/proc/proctest"
	"meros/internal/store"
)

const indexTargets = "apt-get indextargets --format $(SITE)|$(RELEASE)|$(COMPONENT)|$(CREATED_BY)|$(ORIGIN)"

func keyring() string {
	if _, err := os.Stat(debianKeyring); err != nil {
		return ""
	}
	return "[signed-by=" + debianKeyring + "] "
}

func TestDebianSourcesFollowTheHostsApt(t *testing.T) {
	lists := strings.Join([]string{
		"http://third.example/debian|bookworm|main|Packages|Third",
		"http://mirror.example/debian-security|bookworm-security|main|Packages|Debian",
		"http://mirror.example/debian|bookworm-updates|main|Packages|Debian",
		"http://mirror.example/debian|bookworm|main|DEP-11|Debian",
		"http://mirror.example/debian|bookworm|main|Packages|Debian",
	}, "\n")
	unknown := "http://mirror.example/linux/ubuntu|noble|main|Packages|$(ORIGIN)\nhttp://m.example/debian|trixie|main|Packages|$(ORIGIN)\n"
	k := keyring()
	for name, tt := range map[string]struct {
		calls  []proctest.Call
		target family.Target
		want   []string
		lack   string
	}{
		"other suite of the host's mirrors": {
			[]proctest.Call{{Line: indexTargets, Out: lists}},
			family.Target{Distro: "debian", Release: "trixie"},
			[]string{
				"deb " + k + "http://mirror.example/debian trixie main",
				"deb " + k + "http://mirror.example/debian trixie-updates main",
				"deb " + k + "http://mirror.example/debian-security trixie-security main",
			},
			"",
		},
		"rolling": {
			[]proctest.Call{{Line: indexTargets, Out: lists}},
			family.Target{Distro: "debian", Release: "sid"},
			[]string{"deb " + k + "http://mirror.example/debian sid main"},
			"",
		},
		"recipe's security mirror": {
			[]proctest.Call{{Line: indexTargets, Out: lists}},
			family.Target{Distro: "debian", Release: "trixie", Security: "http://own.example/s"},
			[]string{
				"deb " + k + "http://mirror.example/debian trixie main",
				"deb " + k + "http://mirror.example/debian trixie-updates main",
				"deb " + k + "http://own.example/s trixie-security main",
			},
			"",
		},
		"a derivative has all in one archive": {
			[]proctest.Call{{Line: indexTargets, Out: lists + "\nhttp://u.example/ubuntu|noble-updates|main|Packages|Ubuntu\nhttp://u.example/ubuntu|noble|main|Packages|Ubuntu"}},
			family.Target{Distro: "ubuntu", Release: "noble"},
			[]string{
				"deb http://u.example/ubuntu noble main universe",
				"deb http://u.example/ubuntu noble-updates main universe",
				"deb http://u.example/ubuntu noble-security main universe",
			},
			"",
		},
		"a rolling derivative": {
			[]proctest.Call{{Line: indexTargets, Out: lists}},
			family.Target{Distro: "kali", Mirror: "http://k.example/kali"},
			[]string{"deb http://k.example/kali kali-rolling main"},
			"",
		},
		"a derivative that the host's apt does not know": {
			[]proctest.Call{{Line: indexTargets, Out: lists}},
			family.Target{Distro: "devuan"},
			nil, "",
		},
		"recipe's mirror": {
			[]proctest.Call{{Line: indexTargets}, {Line: indexTargets + " --no-release-info"}},
			family.Target{Distro: "debian", Release: "bookworm", Mirror: "http://own.example/d"},
			[]string{"deb " + k + "http://own.example/d bookworm main", "deb " + k + "http://own.example/d bookworm-updates main"},
			"without security updates",
		},
		"no lists downloaded": {
			[]proctest.Call{{Line: indexTargets}, {Line: indexTargets + " --no-release-info", Out: unknown}},
			family.Target{Distro: "debian"},
			[]string{"deb " + k + "http://m.example/debian stable main", "deb " + k + "http://m.example/debian stable-updates main"},
			"without security updates",
		},
		"no apt": {
			[]proctest.Call{{Line: indexTargets, Err: proc.ErrNotFound}}, family.Target{Distro: "debian"}, nil, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, lack, err := distros[tt.target.Distro].sourcesOf(t.Context(), proctest.Script(t, tt.calls...), &tt.target, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("sources differ (-want +got):\n%s", diff)
			}
			if (tt.lack == "") != (lack == "") || !strings.Contains(lack, tt.lack) {
				t.Errorf("they lack %q, want %q", lack, tt.lack)
			}
		})
	}
}

// Every change of a recipe must change the keys of the stages that read it, and
// of no stage before them.
func TestPlanKeysChangeFromTheStageThatReads(t *testing.T) {
	dir := t.TempDir()
	lay(t, dir, "inc/etc/file", "hook", "pkg/tool")
	base := family.Target{
		Family: "f", Name: "t", Distro: "debian", Release: "bookworm", Arch: "amd64", Kernel: family.KernelDistro, Bootstrap: "debootstrap",
		Includes: []string{filepath.Join(dir, "inc")}, ChrootHooks: []string{filepath.Join(dir, "hook")}, Pkg: filepath.Join(dir, "pkg"),
	}
	if _, err := proc.Find(base.Bootstrap); err != nil {
		t.Skip(err)
	}
	plan := func(target family.Target) []Stage {
		t.Helper()
		stages, err := Plan(t.Context(), proctest.Script(t, proctest.Call{Line: indexTargets, Err: proc.ErrNotFound}), &target, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return stages
	}
	before := plan(base)
	for stage, change := range []func(*family.Target){
		func(x *family.Target) { x.Release = "trixie" },
		func(x *family.Target) { x.Packages = []string{"less"} },
		func(x *family.Target) { x.User = "user" },
		func(x *family.Target) { x.Hostname = "other" },
	} {
		changed := base
		change(&changed)
		after := plan(changed)
		for i := range before {
			if same := before[i].Key == after[i].Key; same != (i < stage) {
				t.Errorf("change of what %s reads: key of %s unchanged is %v", before[stage].Name, before[i].Name, same)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "hook"), []byte("other"), 0o755); err != nil {
		t.Fatal(err)
	}
	after := plan(base)
	if after[2].Key != before[2].Key || after[3].Key == before[3].Key {
		t.Error("a changed hook must change the key of the hooks' stage alone")
	}
	for i, now := range map[int]store.Key{2: before[2].Key, 3: after[3].Key} {
		if got := rereadKey(t, before[i]); got != now {
			t.Errorf("%s reads the recipe again: %s, want %s", before[i].Name, got, now)
		}
	}
}

func rereadKey(t *testing.T, s Stage) store.Key {
	t.Helper()
	now, err := s.Reread()
	if err != nil {
		t.Fatal(err)
	}
	return now.Sum()
}

// What a recipe lays over /etc/apk is read before packages are installed.
func TestAlpinePackagesReadTheRecipeAgain(t *testing.T) {
	dir := t.TempDir()
	lay(t, dir, "etc/apk/keys/own.pub")
	target := family.Target{Family: "f", Name: "t", Distro: "alpine", Mirror: "http://m.example", Includes: []string{dir}}
	stages, err := Plan(t.Context(), nil, &target, Options{})
	if err != nil {
		t.Fatal(err)
	}
	packages := stages[1]
	if got := rereadKey(t, packages); got != packages.Key {
		t.Errorf("unchanged: %s, want %s", got, packages.Key)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/apk/keys/own.pub"), []byte("another"), 0o644); err != nil {
		t.Fatal(err)
	}
	if rereadKey(t, packages) == packages.Key {
		t.Error("another key of a repository has the same key of the stage")
	}
}

// Targets that are alike in what a base is made of share it, whatever else they are.
func TestTargetsShareTheirBase(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	if err := os.WriteFile(filepath.Join(bin, "mmdebstrap"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	base := family.Target{Family: "f", Name: "a", Hostname: "a", Distro: "debian", Release: "trixie", Arch: "amd64", Kernel: family.KernelNone}
	other := base
	other.Family, other.Name, other.Hostname, other.Kernel, other.Packages, other.User = "g", "b", "b", family.KernelDistro, []string{"less"}, "user"
	var keys [2][]Stage
	for i, target := range []family.Target{base, other} {
		var err error
		if keys[i], err = Plan(t.Context(), proctest.Script(t, proctest.Call{Line: indexTargets, Err: proc.ErrNotFound}), &target, Options{}); err != nil {
			t.Fatal(err)
		}
	}
	if keys[0][0].Key != keys[1][0].Key || keys[0][1].Key == keys[1][1].Key {
		t.Errorf("bases differ by %q", store.Changes(keys[0][0].Reads, keys[1][0].Reads, Below))
	}
}

// Who updates the bootstrap tool or the archive's keys gets bases made with them.
func TestPlanKeysChangeWithTheTool(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	tool := filepath.Join(dir, "mmdebstrap")
	target := family.Target{Family: "f", Name: "t", Distro: "debian", Release: "trixie", Arch: "amd64", Kernel: family.KernelNone, Bootstrap: "mmdebstrap"}
	plan := func(content string, at time.Time) Stage {
		t.Helper()
		if err := os.WriteFile(tool, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(tool, at, at); err != nil {
			t.Fatal(err)
		}
		stages, err := Plan(t.Context(), proctest.Script(t, proctest.Call{Line: indexTargets, Err: proc.ErrNotFound}), &target, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return stages[0]
	}
	first, again, next := plan("1", time.Unix(1, 0)), plan("1", time.Unix(2, 0)), plan("2", time.Unix(1, 0))
	if first.Key != again.Key {
		t.Errorf("installed anew: %q", store.Changes(first.Reads, again.Reads, Below))
	}
	if want := []string{"tool changed: mmdebstrap"}; !slices.Equal(store.Changes(first.Reads, next.Reads, Below), want) || first.Key == next.Key {
		t.Errorf("another version: %q, want %q", store.Changes(first.Reads, next.Reads, Below), want)
	}
}

func TestLentFileComesBackUnlessReplaced(t *testing.T) {
	for name, tt := range map[string]struct {
		have   string // "": the tree has no such file
		during func(path string) error
		want   string
	}{
		"untouched":         {"own", func(string) error { return nil }, "own"},
		"untouched, absent": {"", func(string) error { return nil }, ""},
		"replaced":          {"own", func(p string) error { return os.WriteFile(p, []byte("hook's"), 0o644) }, "hook's"},
		"removed":           {"own", os.Remove, "own"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			lay(t, root, "etc/")
			path := filepath.Join(root, "etc/resolv.conf")
			if tt.have != "" {
				if err := os.WriteFile(path, []byte(tt.have), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			c := &chroot{tree: tree{root}, unmount: func() error { return nil }}
			if err := c.lend("etc/resolv.conf", []byte("host's"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := tt.during(path); err != nil {
				t.Fatal(err)
			}
			if err := c.leave(); err != nil {
				t.Fatal(err)
			}
			if got, _ := os.ReadFile(path); string(got) != tt.want {
				t.Errorf("afterwards %q, want %q", got, tt.want)
			}
			if left, _ := filepath.Glob(filepath.Join(root, "etc/*aside*")); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestFinishReplacesOnlyWhatIsItsOwn(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	lay(t, root, "etc/", "home/user/", "etc/ssh/ssh_host_rsa_key", "etc/hosts")
	for name, content := range map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
		"etc/fstab":  "# UNCONFIGURED FSTAB FOR BASE SYSTEM\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	id := Identity{Hostname: "box", User: "user", SSHPort: 2022, AuthorizedKey: []byte("key\n"), HostPrivate: []byte("private"), HostPublic: []byte("public"), RootUUID: "u-u"}
	if err := Finish(t.Context(), nil, root, id); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"etc/hostname": "box\n", "etc/hosts": "etc/hosts", "etc/fstab": "UUID=u-u / ext4 errors=remount-ro 0 1\n",
		"home/user/.ssh/authorized_keys": "key\n", "etc/ssh/ssh_host_ed25519_key": "private",
	} {
		if got, err := os.ReadFile(filepath.Join(root, name)); string(got) != want || err != nil {
			t.Errorf("%s = %q, %v, want %q", name, got, err, want)
		}
	}
	if st := stat(t, filepath.Join(root, "home/user/.ssh/authorized_keys")); st.Uid != 1000 || st.Mode&0o777 != 0o600 {
		t.Errorf("authorized_keys: owner %d mode %o, want 1000 600", st.Uid, st.Mode&0o777)
	}
	if _, err := os.Stat(filepath.Join(root, "etc/ssh/ssh_host_rsa_key")); err == nil {
		t.Error("a host key that nobody pinned is left")
	}
	config, err := os.ReadFile(filepath.Join(root, "etc/ssh/sshd_config.d/10-meros.conf"))
	if err != nil || string(config) != sshdConfig("user", 2022) {
		t.Errorf("sshd's configuration = %q, %v", config, err)
	}
}

func TestHostsOfNobodyAreReplaced(t *testing.T) {
	for old, want := range map[string]bool{
		"": true,
		"127.0.0.1\tlocalhost\n::1\t\tlocalhost ip6-localhost ip6-loopback\nff02::1 ip6-allnodes # all\n\n": true,
		"127.0.0.1\tlocalhost localhost.localdomain\n":                                                      true,
		"127.0.0.1 localhost\n10.0.0.1 gate\n":                                                              false,
		"127.0.0.1 localhost box\n":                                                                         false,
		"rubbish":                                                                                           false,
	} {
		if got := replaceNameless(old); got != want {
			t.Errorf("%q: replaced is %v, want %v", old, got, want)
		}
	}
}

func TestLevelled(t *testing.T) {
	for line, want := range map[string]string{
		"root:*:20780:0:99999:7:::":       "root:*:18262:0:99999:7:::",
		"user:*:20780::::::":              "user:*:18262::::::",
		"aged:$y$x:20780:0:90:7:::":       "aged:$y$x:20780:0:90:7:::", // it would expire at another day
		"now:*:0:0:99999:7:::":            "now:*:0:0:99999:7:::",      // to be changed at the next login
		"none:*:::::::":                   "none:*:::::::",
		"broken":                          "broken",
		"a:*:1:0:99999:7:::\nb:*:2:0::::": "a:*:18262:0:99999:7:::\nb:*:18262:0::::",
	} {
		if got := levelled(line); got != want {
			t.Errorf("levelled(%q) = %q, want %q", line, got, want)
		}
	}
}

// debootstrap leaves the suite that it bootstrapped from and no other.
func TestDebootstrapGetsAllSuites(t *testing.T) {
	for name, tt := range map[string]struct {
		b    Bootstrap
		have string
		want []string
	}{
		"devuan":             {Bootstrap{Distro: "devuan", Suite: "daedalus"}, "deb http://m.example/merged daedalus main\n", []string{"m.example/merged daedalus main", "m.example/merged daedalus-updates main", "m.example/merged daedalus-security main"}},
		"kali":               {Bootstrap{Distro: "kali", Suite: "kali-rolling"}, "deb http://m.example/kali kali-rolling main\n", []string{"m.example/kali kali-rolling main"}},
		"debian":             {Bootstrap{Distro: "debian", Suite: "trixie", Security: "http://s.example/s"}, "deb http://m.example/debian trixie main\n", []string{"m.example/debian trixie main", "m.example/debian trixie-updates main", "s.example/s trixie-security main"}},
		"debian, not secure": {Bootstrap{Distro: "debian", Suite: "trixie"}, "deb http://m.example/debian trixie main\n", []string{"m.example/debian trixie main", "m.example/debian trixie-updates main"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			lay(t, root, "etc/apt/")
			file := filepath.Join(root, "etc/apt/sources.list")
			if err := os.WriteFile(file, []byte(tt.have), 0o644); err != nil {
				t.Fatal(err)
			}
			tt.b.Tool = "debootstrap"
			if err := tt.b.writeSources(root); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(string(got)), "\n")
			if len(lines) != len(tt.want) {
				t.Fatalf("sources.list:\n%swant %q", got, tt.want)
			}
			for i, line := range lines {
				if !strings.HasPrefix(line, "deb ") || !strings.HasSuffix(line, "http://"+tt.want[i]) {
					t.Errorf("line %d is %q, want %q", i, line, tt.want[i])
				}
			}
		})
	}
}
