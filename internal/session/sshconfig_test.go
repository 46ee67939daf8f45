package session

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"meros/internal/family"
	"meros/internal/layout"
)

func TestSSHConfigNeedsKeys(t *testing.T) {
	target := &family.Target{Family: "mos_demo", Name: "box", User: "user", Addr: netip.MustParseAddr("10.0.0.2"), SSHPort: 22}
	if _, err := SSHConfig(layout.Paths{Root: t.TempDir()}, target); err == nil || !strings.Contains(err.Error(), "has not been built") {
		t.Errorf("SSHConfig = %v, want that it has not been built", err)
	}
	if _, err := Fingerprints(layout.Paths{Root: t.TempDir()}, target); err == nil {
		t.Error("Fingerprints of a target without keys = nil")
	}
}

func TestSSHConfig(t *testing.T) {
	paths := layout.Paths{Root: t.TempDir() + "/a root%1"}
	target := &family.Target{Family: "mos_demo", Name: "box", User: "user", Addr: netip.MustParseAddr("fd00::2"), SSHPort: 2022}
	id, err := MakeKeys(paths, target.FullID())
	if err != nil {
		t.Fatal(err)
	}
	config, err := SSHConfig(paths, target)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"Host mos_demo-box", "    HostName fd00::2", "    Port 2022", "    StrictHostKeyChecking yes",
		fmt.Sprintf(`    IdentityFile "%s/a root%%%%1/data/ssh_keys/mos_demo-box"`, strings.TrimSuffix(paths.Root, "/a root%1")),
	} {
		if !strings.Contains(config, line+"\n") {
			t.Errorf("the config lacks %q:\n%s", line, config)
		}
	}
	known, err := os.ReadFile(paths.KnownHosts("mos_demo-box"))
	if fields := strings.Fields(string(known)); err != nil || fields[0] != "mos_demo-box" || !strings.HasPrefix(string(id.HostPublic), strings.Join(fields[1:], " ")) {
		t.Errorf("known hosts: %q, %v", known, err)
	}
	if _, err := SSHConfig(layout.Paths{Root: t.TempDir() + "/a\"b"}, target); err == nil {
		t.Error("a path with a quote passed")
	}
}

const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000:07E6 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   2: 02073C0A:07E6 01073C0A:D431 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   0: 00000000000000000000000000000000:07E6 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000
   1: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000
   2: xx:07E6 y:0 0A z
   3: 00:07E6 y:0 0A z
`

func TestParsePorts(t *testing.T) {
	want1(t, "table", fmt.Sprint(parsePorts(table)), "[[::1]:22 0.0.0.0:2022 [::]:2022 127.0.0.1:8080]")
}

// FuzzParsePorts gives what a guest says of its sockets.
func FuzzParsePorts(f *testing.F) {
	f.Add(table)
	f.Fuzz(func(t *testing.T, s string) {
		for _, at := range parsePorts(s) {
			if !at.IsValid() {
				t.Errorf("%q gives %v", s, at)
			}
		}
	})
}
