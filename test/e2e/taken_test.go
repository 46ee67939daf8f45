package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"meros/internal/virt/virttest"
)

// do runs a program of the host that has to succeed.
func do(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

func virsh(t *testing.T, args ...string) string {
	t.Helper()
	return do(t, append([]string{"virsh", "-q", "-c", "qemu:///system"}, args...)...)
}

// define gives a document to libvirt, as another program would.
func define(t *testing.T, command, document string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "x.xml")
	if err := os.WriteFile(file, []byte(document), 0o644); err != nil {
		t.Fatal(err)
	}
	virsh(t, command, file)
}

// others are those who have what the tiny family needs. Each takes it, and gives
// the words of init's refusal and a way to give it back.
var others = map[string]func(t *testing.T, root string) (words []string, giveBack func()){
	"the bridge's name is another's": func(t *testing.T, _ string) ([]string, func()) {
		do(t, "ip", "link", "add", "e2e_tiny_lan", "type", "bridge")
		return []string{"its bridge e2e_tiny_lan is taken by the link e2e_tiny_lan of this host"},
			func() { do(t, "ip", "link", "del", "e2e_tiny_lan") }
	},
	"the bridge is another network's": func(t *testing.T, _ string) ([]string, func()) {
		define(t, "net-create", `<network><name>other</name><bridge name="e2e_tiny_lan"/></network>`)
		return []string{"its bridge e2e_tiny_lan is taken by the libvirt network other of another program"},
			func() { virsh(t, "net-destroy", "other") }
	},
	"the network's name is another's": func(t *testing.T, _ string) ([]string, func()) {
		define(t, "net-create", `<network><name>e2e_tiny_lan</name><bridge name="other0"/></network>`)
		return []string{"libvirt has a network e2e_tiny_lan (running) of another program: it is not touched"},
			func() { virsh(t, "net-destroy", "e2e_tiny_lan") }
	},
	"a route of the host": func(t *testing.T, _ string) ([]string, func()) {
		do(t, "ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1")
		do(t, "ip", "link", "set", "other0", "up")
		do(t, "ip", "route", "add", "10.64.76.0/23", "dev", "other0", "table", "52")
		return []string{"its subnet 10.64.77.0/24 is taken by the route 10.64.76.0/23 on other0 of this host"},
			func() { do(t, "ip", "link", "del", "other0") }
	},
	"the guest's address is the host's": func(t *testing.T, _ string) ([]string, func()) {
		do(t, "ip", "address", "add", "10.64.77.2/32", "dev", "lo")
		return []string{"its subnet 10.64.77.0/24 is taken by the address 10.64.77.2 on lo of this host"},
			func() { do(t, "ip", "address", "del", "10.64.77.2/32", "dev", "lo") }
	},
	"a port of the host": func(t *testing.T, root string) ([]string, func()) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		graphics := `<graphics type="vnc" port="` + port + `" autoport="no"/></devices>`
		replaceIn(t, root, tinyFamily+"/libvirt/box.xml", "</devices>", graphics)
		return []string{tiny + ": its port " + port + " of the host is taken by ", "process " + strconv.Itoa(os.Getpid())},
			func() {
				l.Close()
				replaceIn(t, root, tinyFamily+"/libvirt/box.xml", graphics, "</devices>")
			}
	},
	"another's guest has the name": func(t *testing.T, _ string) ([]string, func()) {
		define(t, "create", foreignGuest("<on_crash>destroy</on_crash>"))
		return []string{"libvirt has a domain " + tiny + " (running) of another program: it is not touched"},
			func() { virsh(t, "destroy", tiny) }
	},
	"another's guest that is off has the name": func(t *testing.T, _ string) ([]string, func()) {
		define(t, "define", foreignGuest(""))
		return []string{"libvirt has a domain " + tiny + " (off) of another program: it is not touched"},
			func() { virsh(t, "undefine", tiny) }
	},
	"another root's guest has the name": func(t *testing.T, _ string) ([]string, func()) {
		define(t, "create", foreignGuest(`<metadata><m:target xmlns:m="urn:meros:object:1" family="`+tinyFamily+`" target="box" root="/srv/other"/></metadata>`))
		return []string{"libvirt has a domain " + tiny + " (running) of the family " + tinyFamily + " of /srv/other: it is not touched"},
			func() { virsh(t, "destroy", tiny) }
	},
}

// foreignGuest is a guest of the tiny one's name that meros has not made.
func foreignGuest(more string) string {
	return `<domain type="qemu"><name>` + tiny + `</name>` + more +
		`<memory unit="MiB">32</memory><os><type machine="q35">hvm</type></os></domain>`
}

// testTaken has others take what init needs: it refuses, names them, starts nothing
// and touches nothing of theirs, and neither does shutdown.
func testTaken(t *testing.T, root string) {
	for name, take := range others {
		t.Run(name, func(t *testing.T) {
			words, giveBack := take(t, root)
			before := settled(t, root)
			for _, args := range [][]string{{"init", tinyFamily}, {"init", tiny, "--disposable", "--no-wait"}} {
				wantFailure(t, meros(t, root, args...), 1, append(words, "hint: ")...)
				wantEverything(t, root, before)
			}
			mustRun(t, root, "shutdown", tinyFamily, "--force")
			mustRun(t, root, "shutdown", "--force")
			wantEverything(t, root, before)
			giveBack()
		})
	}
}

// settled is everything once it changes no more: a new link takes a moment.
func settled(t *testing.T, root string) []string {
	t.Helper()
	now := everything(t, root)
	for range 50 {
		time.Sleep(300 * time.Millisecond)
		before := now
		if now = everything(t, root); slices.Equal(now, before) {
			return now
		}
	}
	t.Fatal("the host does not settle")
	return nil
}

// testClosedFolder closes the root to libvirt's qemu user, as a home folder is.
func testClosedFolder(t *testing.T, root string) {
	if err := os.Chmod(root, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(root, 0o755)
	before := everything(t, root)
	r := meros(t, root, "init", tinyFamily)
	wantFailure(t, r, 4, "may not enter "+root, "chmod o+x "+root)
	if n := strings.Count(r.err, "may not enter"); n != 1 {
		t.Errorf("it is said %d times:\n%s", n, r.err)
	}
	wantEverything(t, root, before)
}

// testTwoFamilies runs two families of two roots: where they clash, both are named.
func testTwoFamilies(t *testing.T, root string) {
	other := t.TempDir()
	for dir := other; dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const theirs = "e2e_other"
	lan := func(bridge, subnet string) {
		write(t, other, theirs+"/libvirt/lan.xml", fmt.Sprintf(`<network><bridge name="%s"/><dns enable="no"/><ip address="%s.1" prefix="24"/></network>`, bridge, subnet), 0o644)
	}
	guest := strings.Replace(virttest.OnNetwork(), `<source network=`, `<mac address="52:54:00:00:77:01"/><source network=`, 1)
	replaceIn(t, root, tinyFamily+"/libvirt/box.xml", `<source network=`, `<mac address="52:54:00:00:77:01"/><source network=`)
	defer replaceIn(t, root, tinyFamily+"/libvirt/box.xml", `<mac address="52:54:00:00:77:01"/>`, "")
	write(t, other, theirs+"/libvirt/box.xml", guest, 0o644)
	lan("e2e_tiny_lan", "10.64.79")
	disk := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(disk, virttest.Guest(), 0o644); err != nil {
		t.Fatal(err)
	}
	mustRun(t, other, "import", theirs+"-box", disk)
	mustRun(t, root, "init", tinyFamily)
	running := settled(t, root)
	ours := " of the family " + tinyFamily + " of " + root
	wantFailure(t, meros(t, other, "init", theirs), 1, "network e2e_other_lan: its bridge e2e_tiny_lan is taken by the libvirt network e2e_tiny_lan"+ours,
		theirs+"-box: its MAC address 52:54:00:00:77:01 is taken by the domain "+tiny+ours)
	lan("e2e_other_lan", "10.64.77")
	wantFailure(t, meros(t, other, "init", theirs), 1, "network e2e_other_lan: its subnet 10.64.77.0/24 is taken by the libvirt network e2e_tiny_lan"+ours)
	wantEverything(t, root, running)
	replaceIn(t, other, theirs+"/libvirt/box.xml", `<mac address="52:54:00:00:77:01"/>`, "")
	lan("e2e_other_lan", "10.64.79")
	mustRun(t, other, "init", theirs)
	// Of two roots, each shuts down its own.
	mustRun(t, root, "shutdown", "--force")
	if r := mustRun(t, other, "info", theirs); !strings.Contains(r.out, "running") {
		t.Errorf("the other root's guest is gone:\n%s", r.out)
	}
	mustRun(t, other, "shutdown", "--force")
}

// testOtherSettings changes a network's document while the network is up.
func testOtherSettings(t *testing.T, root string) {
	mustRun(t, root, "init", tinyFamily)
	replaceIn(t, root, tinyFamily+"/libvirt/lan.xml", "<dns", `<mtu size="1400"/><dns`)
	defer replaceIn(t, root, tinyFamily+"/libvirt/lan.xml", `<mtu size="1400"/><dns`, "<dns")
	running := settled(t, root)
	wantFailure(t, meros(t, root, "init", tinyFamily), 1, "network e2e_tiny_lan runs with other settings than the recipe's", "meros shutdown "+tinyFamily)
	wantEverything(t, root, running)
	mustRun(t, root, "shutdown", tinyFamily, "--force")
	mustRun(t, root, "init", tinyFamily)
}
