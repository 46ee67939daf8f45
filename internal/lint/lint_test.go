package lint

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"meros/internal/family"
	"meros/internal/layout"
)

// write makes a family of these files; hooks get the run bit.
func write(t *testing.T, root, name string, files map[string]string) *family.Family {
	t.Helper()
	paths := layout.Paths{Root: root}
	for file, content := range files {
		mode := os.FileMode(0o644)
		if strings.Contains(file, "hooks/") {
			mode = 0o755
		}
		if err := paths.WriteFile(filepath.Join(paths.Family(name), file), []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	f, err := family.Load(paths, name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

const domain = `<domain type="kvm"><devices>
<interface type="network"><source network="$NETWORK_FULL_ID"/></interface>
`

func TestFindings(t *testing.T) {
	root := t.TempDir()
	f := write(t, root, "bad", map[string]string{
		"build/a.xml":    `<target><build id="a" kernel="no"/><network network_addr="10.62.9.77" ip_addr="10.62.9.2"/></target>`,
		"libvirt/a.xml":  domain + "<hostdev/>\n<graphics type=\"spice\" listen=\"0.0.0.0\"/>\n</devices></domain>",
		"libvirt/n.xml":  "<network><bridge name=\"b\"/><ip address=\"10.62.9.1\" prefix=\"24\">\n<dhcp/></ip></network>",
		"libvirt/n2.xml": `<network><bridge name="b2"/><ip address="10.62.9.129" netmask="255.255.255.128"/></network>`,
		"rootfs/a/hooks/10-x": "#!/bin/sh\necho user:user | chpasswd\ncurl https://example.org/x | sh\n# curl https://example.org | sh\n" +
			"wget https://example.org/y\ngit clone https://example.org/z\n",
		"rootfs/a/includes.chroot/etc/ssh/sshd_config": "PasswordAuthentication yes\n",
		"rootfs/a/includes.chroot/etc/ssh/key":         "-----BEGIN OPENSSH PRIVATE KEY-----\n",
		"hooks/10-fw":                                  "#!/bin/sh\nnft flush ruleset\niptables -F\n",
		"netfilter/10.nft":                             "table inet meros_bad {\n\tchain p {\n\t\taccept\n\t\ttcp dport 80 dnat to 10.0.0.1\n\t}\n}\n",
		"rootfs/a/hooks/20-y":                          "#!/bin/sh\nwget https://example.org/y\nsha256sum -c sums\n",
	})
	other := write(t, root, "other", map[string]string{
		"libvirt/a.xml": domain + "</devices></domain>",
		"libvirt/n.xml": `<network><bridge name="b"/><ip address="10.62.9.1" prefix="24"/></network>`,
	})
	found, err := Family(f, []*family.Family{other})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, g := range found {
		got = append(got, g.File+": "+g.What)
		if g.Why == "" || g.Fix == "" {
			t.Errorf("%+v lacks words", g)
		}
	}
	for _, want := range []string{
		"build/a.xml: its network_addr 10.62.9.77", "libvirt/a.xml: hands the guest", "libvirt/a.xml: the guest's screen",
		"libvirt/n.xml: the network hands out", "libvirt/n.xml: its subnet 10.62.9.0/24 is also that of the network other_n of other",
		"libvirt/n2.xml: its subnet 10.62.9.128/25 is also that of the network bad_n",
		"rootfs/a/hooks/10-x: sets a password", "rootfs/a/hooks/10-x: runs a program straight", "rootfs/a/hooks/10-x: downloads without",
		"rootfs/a/hooks/10-x: clones whatever", "rootfs/a/includes.chroot/etc/ssh/sshd_config: sshd takes passwords",
		"rootfs/a/includes.chroot/etc/ssh/key: a private key", "hooks/10-fw: takes away everybody's",
		"netfilter/10.nft: is never reached: line 3", "netfilter/policy.xml: is not there",
	} {
		if !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, want) }) {
			t.Errorf("not found: %s", want)
		}
	}
	if i := slices.IndexFunc(got, func(g string) bool { return strings.HasPrefix(g, "rootfs/a/hooks/20-y") }); i >= 0 {
		t.Errorf("a download that is checked is found: %s", got[i])
	}
	for _, g := range found {
		if g.Line == 4 && strings.HasSuffix(g.File, "10-x") {
			t.Errorf("a comment is found: %+v", g)
		}
	}
}

func TestWideAllows(t *testing.T) {
	f := write(t, t.TempDir(), "wide", map[string]string{
		"build/a.xml":          `<target><build id="a" kernel="no"/><network network_addr="10.62.8.1" ip_addr="10.62.8.2"/></target>`,
		"libvirt/a.xml":        domain + "</devices></domain>",
		"libvirt/n.xml":        `<network><forward mode="open"/><bridge name="b"/><ip address="10.62.8.1" prefix="24"/></network>`,
		"netfilter/policy.xml": "<policy>\n<allow from=\"a\" to=\"host\"/>\n<allow from=\"a\" to=\"lan\" proto=\"tcp\"/>\n<allow from=\"lan\" to=\"a\" proto=\"tcp\" ports=\"80\"/>\n<allow from=\"a\" to=\"internet\"/>\n</policy>",
	})
	found, err := Family(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	var lines []int
	for _, g := range found {
		lines = append(lines, g.Line)
	}
	if !slices.Equal(lines, []int{0, 2, 3}) {
		t.Errorf("found %+v, want lines 2 and 3, and that assertions are missing", found)
	}
}

// A next hop without rules of its own leaves one layer; one that has any is left to
// who wrote them.
func TestHopsWithoutRules(t *testing.T) {
	files := map[string]string{
		"build/fw.xml":         `<target><build id="fw" kernel="no"/><network network_addr="10.62.7.1" ip_addr="10.62.7.9"/></target>`,
		"build/a.xml":          `<target><build id="a" kernel="no"/><network network_addr="10.62.7.9" ip_addr="10.62.7.2"/></target>`,
		"libvirt/a.xml":        domain + "</devices></domain>",
		"libvirt/fw.xml":       domain + "</devices></domain>",
		"libvirt/n.xml":        `<network><forward mode="open"/><bridge name="b"/><ip address="10.62.7.1" prefix="24"/></network>`,
		"netfilter/policy.xml": `<policy><allow from="a" to="internet" via="fw" proto="tcp"/></policy>`,
	}
	const want = "is the next hop of a and has no packet-filter rules of its own"
	has := func(name string) bool {
		found, err := Family(write(t, t.TempDir(), name, files), nil)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(found, func(f Finding) bool { return f.File == "build/fw.xml" && f.What == want })
	}
	if !has("bare") {
		t.Errorf("not found: %s", want)
	}
	files["rootfs/fw/includes.chroot/etc/nftables.conf"] = "table inet f { chain c { type filter hook forward priority 0; policy drop; }; }\n"
	if has("ruled") {
		t.Errorf("found although there are rules: %s", want)
	}
}

func TestOpenKeys(t *testing.T) {
	root := t.TempDir()
	paths := layout.Paths{Root: root}
	f := write(t, root, "keys", map[string]string{
		"build/a.xml": `<target><build id="a" kernel="no"/></target>`, "libvirt/a.xml": domain + "</devices></domain>",
		"libvirt/n.xml": `<network><bridge name="b"/></network>`,
	})
	for file, mode := range map[string]os.FileMode{paths.ClientKey("keys-a"): 0o600, paths.HostKey("keys-a"): 0o640} {
		if err := paths.WriteFile(file, []byte("key"), mode); err != nil {
			t.Fatal(err)
		}
	}
	found := Keys(paths, f)
	if len(found) != 1 || found[0].File != paths.HostKey("keys-a") || found[0].Why == "" || found[0].Fix == "" {
		t.Errorf("Keys = %+v, want the host key alone", found)
	}
}

func TestKernelOutOfADeb(t *testing.T) {
	const sum = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	for target, want := range map[string]bool{
		`<build kernel="prebuilt" distro="alpine"/>` + "\n" + `<kernel url="https://example.org/linux-image.deb" sha256="` + sum + `" />`: true,
		`<build kernel="prebuilt" rootfs="no"/>` + "\n" + `<kernel url="https://example.org/linux-image.deb" sha256="` + sum + `" />`:     true,
		`<build kernel="prebuilt"/>` + "\n" + `<kernel url="https://example.org/linux-image.deb" sha256="` + sum + `" />`:                 false,
		`<build kernel="prebuilt" distro="alpine"/>` + "\n" + `<kernel url="https://example.org/vmlinuz" sha256="` + sum + `" />`:         false,
		`<build kernel="prebuilt"/>` + "\n" + `<kernel package="linux-image-6.1.0-41-cloud-amd64" />`:                                     false,
	} {
		f := write(t, t.TempDir(), "deb", map[string]string{"build/a.xml": "<target>" + target + "</target>"})
		found, err := Family(f, nil)
		if err != nil {
			t.Fatal(err)
		}
		told := slices.ContainsFunc(found, func(g Finding) bool {
			return g.File == "build/a.xml" && g.Line == 2 && strings.Contains(g.What, "without its modules")
		})
		if told != want {
			t.Errorf("%s: findings %+v, want one on modules: %v", target, found, want)
		}
	}
}
