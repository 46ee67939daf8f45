package family

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAttributesHaveTheirOwnLines(t *testing.T) {
	r := &report{}
	root := readXML([]byte("<a\n\tb = '>\n='\r\n c=\"/>\"\n\n\td='1'><e f='2'\n/>\n</a>"), r.file("x"))
	if root == nil || len(r.faults) > 0 {
		t.Fatalf("readXML = %v, %v", root, r.faults)
	}
	got := map[string]int{}
	for _, a := range append(root.attrs, root.children[0].attrs...) {
		got[a.name] = a.line
	}
	if diff := cmp.Diff(map[string]int{"b": 2, "c": 4, "d": 6, "f": 6}, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if got := root.children[0].line; got != 6 {
		t.Errorf("line of <e> = %d, want 6", got)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"free_space_mb", "port", "hooks", "rootfs"}
	for word, want := range map[string]string{
		"free_space": "free_space_mb", "prot": "port", "pört": "port", "sport": "port", "x": "", "": "", "colour": "", strings.Repeat("port", 500): "",
	} {
		if got, ok := nearest(word, known); got != want || ok != (want != "") {
			t.Errorf("nearest(%q) = %q, %v, want %q", word, got, ok, want)
		}
	}
	for word, want := range map[string]bool{"tools": false, "hoks": true, "hook": true, "rotofs": true, "rootfs": false, "boot": false} {
		if _, got := misspelt(word, known); got != want {
			t.Errorf("misspelt(%q) = %v, want %v", word, got, want)
		}
	}
}

func TestMirror(t *testing.T) {
	for _, good := range []string{"http://a/debian", "https://a.b:81/x/", "file:///srv/mirror", "http://[::1]:3142/debian"} {
		if _, err := mirror(good); err != nil {
			t.Errorf("mirror(%q) = %v, want nil", good, err)
		}
	}
	for _, bad := range []string{
		"", "http://a/@", "/srv", "http:", "http://", "http:///x", "ftp://a/", "file://a/x", "file:x", "http://u@a/", "http://u:p@a/", "http://a/ b", "http://a/\n",
		"http://a/?q", "http://a/#f", "http://a/'", "http://a/$x", "HTTP//a", "http://a:x/", "copy:///x", "http://a/\u202e",
	} {
		if _, err := mirror(bad); err == nil {
			t.Errorf("mirror(%q) = nil, want an error", bad)
		}
	}
}

func TestAddress(t *testing.T) {
	for _, good := range []string{"10.0.4.4", "10.0.2.0", "169.254.1.1", "fd00::4", "2001:db8::1"} {
		if _, err := address(good); err != nil {
			t.Errorf("address(%q) = %v, want nil", good, err)
		}
	}
	for _, bad := range []string{
		"", "10.0.4", "10.0.4.04", "10.0.4.4/24", " 10.0.4.4", "host", "0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1",
		"255.255.255.255", "fe80::1", "fd00::1%eth0", "::ffff:10.0.0.1",
	} {
		if _, err := address(bad); err == nil {
			t.Errorf("address(%q) = nil, want an error", bad)
		}
	}
}

func TestHostnameOfATarget(t *testing.T) {
	for name, want := range map[string]string{"box": "box", "my_box": "my-box", "0a__": "0a", "a-": "a"} {
		if got := hostname(name); got != want || !hostForm.MatchString(got) {
			t.Errorf("hostname(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestNetworkID(t *testing.T) {
	for _, tt := range []struct{ family, base, want string }{
		{"mos_sec", "net_sec-priv", "mos_sec-priv"},
		{"mersec", "net_mersec_priv", "mersec_priv"},
		{"mersec", "net_mersec", "mersec"},
		{"mersec", "net_mersecond", "mos_mersecond"},
		{"mos_demo", "net_mos_demo-lan", "mos_demo-lan"},
		{"mos_demo", "lan", "mos_demo_lan"},
	} {
		if got := networkID(tt.family, tt.base); got != tt.want {
			t.Errorf("networkID(%s, %s) = %s, want %s", tt.family, tt.base, got, tt.want)
		}
	}
}

func TestFaultWithAControlCharacterInItsPathStaysOneLine(t *testing.T) {
	f := Fault{File: "conf/a\nb.xml", Line: 2, Text: "bad"}
	if got, want := f.String(), `"conf/a\nb.xml":2: bad`; got != want {
		t.Errorf("String() = %s, want %s", got, want)
	}
}

// FuzzReadBuild: whatever a build file holds, reading it ends, every fault has a
// file and a line that is in it, and a target without faults keeps the promises
// of its type.
func FuzzReadBuild(f *testing.F) {
	for _, seed := range []string{
		"", "<target/>", "<target", "<target><build id='box' kernel='yes'/><packages>a <package>b</package></packages></target>",
		"\ufeff<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><target a='&lt;' a='1'>&b;</target>x", "<a:b xmlns:a='c'/>",
		"<target>\n<network ip_addr='10.0.0.1'\nnetwork_addr='10.0.0.2' ssh_port='22'/>\n<ssh port='23'/></target>", "<a></b>\xff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &report{}
		target := newTarget("mos_demo", "box")
		readBuild(data, r.file("build/box.xml"), target)
		lines := strings.Count(string(data), "\n") + 1
		for _, fault := range r.faults {
			if fault.File != "build/box.xml" || fault.Line < 1 || fault.Line > lines || fault.Text == "" {
				t.Errorf("fault %+v of a file of %d lines", fault, lines)
			}
			if strings.ContainsAny(fault.String(), "\n\r\x1b") {
				t.Errorf("fault %q is not one clean line", fault)
			}
		}
		if len(r.faults) == 0 {
			if err := sound(target); err != nil {
				t.Error(err)
			}
		}
	})
}

// sound checks what a target promises.
func sound(t *Target) error {
	switch {
	case t.User != "" && !userForm.MatchString(t.User), !hostForm.MatchString(t.Hostname):
		return errors.New("bad user or host name")
	case t.Addr.IsValid() != t.Gateway.IsValid(), t.Addr.IsValid() && t.Addr == t.Gateway:
		return errors.New("bad addresses")
	case t.SSHPort < 1 || t.SSHPort > 65535, t.FreeMB < 1 || t.FreeMB > maxFreeMB:
		return errors.New("a number is out of its bounds")
	case strings.ContainsAny(t.Release+t.Arch, "/ \n"), strings.Contains(t.SharedDir, ".."+"/"):
		return errors.New("a path in a word")
	}
	return nil
}

// Whatever a list of packages holds, what comes of it are names and faults with
// their lines.
func FuzzPackageList(f *testing.F) {
	for _, seed := range []string{"", "less vim\n# no\nnginx", "--force\n\x00\xff", "a=1\r\n", "#"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &report{}
		target := newTarget("mos_demo", "box")
		parsePackageList(data, r.file("package-lists/a.list")).addTo(target)
		lines := strings.Count(string(data), "\n") + 1
		for _, fault := range r.faults {
			if fault.Line < 1 || fault.Line > lines || fault.Text == "" {
				t.Errorf("fault without its place: %+v", fault)
			}
		}
		for _, name := range target.Packages {
			if !debForm.MatchString(name) {
				t.Errorf("taken for a package: %q", name)
			}
		}
	})
}
