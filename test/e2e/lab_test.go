package e2e

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"meros/internal/capture"
)

const (
	labPanther = "mos_lab-panther"
	victimAddr = "10.60.32.4"
)

// trimLab makes mos_lab as it ships, but for the tools, and with the victim's disk
// and card of the kinds that Debian's cloud kernel knows.
func trimLab(t *testing.T, root string) {
	t.Helper()
	const recipe = "mos_lab/"
	file := filepath.Join(root, "conf/target", recipe, "build/panther.xml")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(content), "<packages>")
	_, after, ok := strings.Cut(rest, "</packages>")
	if !ok {
		t.Fatalf("no packages in %s", content)
	}
	if err := os.WriteFile(file, []byte(before+"<packages>busybox sudo</packages>"+after), 0o644); err != nil {
		t.Fatal(err)
	}
	letSudo(t, root, "mos_lab")
	images := filepath.Join(root, "data/images")
	domain := recipe + "libvirt/target.xml"
	replaceIn(t, root, domain, `hvm</type>`, `hvm</type><kernel>`+images+`/mos_lab-panther.vmlinuz</kernel><initrd>`+images+`/mos_lab-panther.initrd</initrd>
		<cmdline>root=/dev/vda1 rw console=ttyS0 ipv6.disable=1</cmdline>`)
	replaceIn(t, root, domain, `dev="sda" bus="sata"`, `dev="vda" bus="virtio"`)
	replaceIn(t, root, domain, `e1000`, `virtio`)
	replaceIn(t, root, domain, `<memory unit="MiB">1024`, `<memory unit="MiB">384`)
	replaceIn(t, root, recipe+"libvirt/panther.xml", `<memory unit="MiB">1536`, `<memory unit="MiB">384`)
}

// bringVictim builds an image that knows no more of mos_lab than the address that
// it has to use, and brings it. Its web server runs what it is sent, as root.
func bringVictim(t *testing.T, root string) {
	t.Helper()
	const recipe = "e2e_victim/"
	files := recipe + "rootfs/box/includes.chroot/"
	write(t, root, recipe+"build/box.xml", `<target><build id="box" distro="debian" release="bookworm"/><details hostname="victim"/><size free_space_mb="50"/><packages>busybox sudo</packages></target>`, 0o644)
	write(t, root, files+"etc/systemd/network/10-lan.network", "[Match]\nMACAddress=52:54:00:60:32:04\n[Network]\nAddress="+victimAddr+"/24\nGateway=10.60.32.3\n", 0o644)
	write(t, root, files+"etc/systemd/system/victim.service", "[Unit]\nAfter=network.target\n[Service]\nExecStart=/bin/busybox httpd -f -p 80 -h /srv\n[Install]\nWantedBy=multi-user.target\n", 0o644)
	write(t, root, files+"srv/cgi-bin/run", "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\nexec bash 2>&1\n", 0o755)
	write(t, root, recipe+"rootfs/box/hooks/10-run", "#!/bin/sh\nset -e\nsystemctl enable systemd-networkd victim\nsystemctl disable systemd-networkd-wait-online\nsystemctl mask systemd-timesyncd\n", 0o755)
	mustRun(t, root, "build", "e2e_victim")
	image := filepath.Join(root, "data/images/e2e_victim-box.qcow2")
	mustRun(t, root, "import", "mos_lab-target", image)
	if err := os.Remove(image); err != nil {
		t.Fatal(err)
	}
}

// lab starts mos_lab beside mos_sec.
func (s sec) lab(t *testing.T) {
	mustRun(t, s.root, "init", "mos_lab", "--timeout", "15m")
	ask := func(line string) string {
		return s.in(t, labPanther, "timeout 60 busybox wget -q -O - --post-data "+quote(line)+" http://"+victimAddr+"/cgi-bin/run")
	}
	// The victim has no session that init could wait for.
	for deadline := time.Now().Add(5 * time.Minute); ask("echo here") != "here"; {
		if time.Now().After(deadline) {
			t.Fatal("panther does not reach the victim")
		}
	}
	s.uplink.take()
	t.Run("panther reaches", func(t *testing.T) {
		for line, want := range map[string]string{
			// The internet, as this host.
			fetch(webAddr): "you are " + hostAddr,
			"busybox ping -c 1 -W 20 " + victimAddr + " >/dev/null && echo answered": "answered",
		} {
			if got := s.in(t, labPanther, "sudo bash -c "+quote(line)); got != want {
				t.Errorf("%s: %q, want %q", line, got, want)
			}
		}
	})
	t.Run("the victim reaches", func(t *testing.T) {
		if got := ask("exec 3<>/dev/tcp/10.60.32.3/2022 && head -c 4 <&3"); !strings.HasPrefix(got, "SSH-") {
			t.Errorf("panther: %q", got)
		}
		s.wantNone(t, ask, "10.60.32.1", "10.60.31.1", "10.60.31.2", "10.60.31.3", "10.60.30.1", "10.60.30.2",
			hostAddr, worldAddr, webAddr, "10.60.20.1", "10.60.20.2", "10.60.21.1", "10.60.21.2", "10.60.21.3")
	})
	// Panther has a way to the firewall of its own family, and to no other guest.
	t.Run("panther does not reach", func(t *testing.T) {
		s.wantNone(t, func(line string) string { return s.in(t, labPanther, "sudo bash -c "+quote(line)) },
			"10.60.31.1", "10.60.31.2", "10.60.30.1", "10.60.30.2", hostAddr, "10.60.20.1", "10.60.20.2", "10.60.21.1", "10.60.21.2", "10.60.21.3")
	})
	t.Run("mos_sec does not reach", func(t *testing.T) {
		for _, target := range []string{secGuest, secFirewall} {
			s.wantNone(t, func(line string) string { return s.in(t, target, "sudo bash -c "+quote(line)) },
				"10.60.31.1", "10.60.31.2", "10.60.31.3", "10.60.30.1", "10.60.30.2", "10.60.32.3", victimAddr)
		}
	})
	s.wantLab(t)
	t.Run("verify", func(t *testing.T) { mustRun(t, s.root, "verify", "mos_lab") })
	mustRun(t, s.root, "info", "--check")
	mustRun(t, s.root, "shutdown", "mos_lab", "--force")
	mustRun(t, s.root, "info", "--check", "mos_sec")
	s.awaitExit(t, fetch(webName))
}

// quote makes one word of a line of shell.
func quote(line string) string { return "'" + strings.ReplaceAll(line, "'", `'\''`) + "'" }

// wantNone checks that nobody at these addresses says anything to a guest, by TCP
// or by ping.
func (s sec) wantNone(t *testing.T, in func(line string) string, addrs ...string) {
	t.Helper()
	line := ""
	for _, a := range addrs {
		line += "(timeout 6 bash -c 'exec 3<>/dev/tcp/" + a + "/2022 && head -c 3 <&3 | grep -q SSH && echo " + a + " speaks SSH'; " +
			"timeout 6 bash -c 'exec 3<>/dev/tcp/" + a + "/80 && echo GET / >&3 && head -c 1 <&3 | grep -q . && echo " + a + " serves pages';" +
			"timeout 6 busybox ping -c 1 -W 5 " + a + " >/dev/null && echo " + a + " answers a ping) 2>/dev/null & "
	}
	if got := in(line + "wait; echo done"); got != "done" {
		t.Errorf("reached: %q", got)
	}
}

// wantLab checks what passed the uplink since the lab runs: Tor's connections, and
// panther's own to the web server.
func (s sec) wantLab(t *testing.T) {
	t.Helper()
	pages := 0
	for _, f := range s.uplink.take() {
		ends := []string{f.From.String(), f.To.String()}
		if f.Proto == capture.TCP && slices.Contains(ends, webAddr) && slices.Contains(ends, hostAddr) {
			pages++
			continue
		}
		s.wantTor(t, f, netip.MustParseAddr(hostAddr))
	}
	if pages == 0 {
		t.Error("the uplink saw nothing of the page that panther fetched")
	}
}
