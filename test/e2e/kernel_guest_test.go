//go:build kernel

package e2e

import "testing"

func testKernelGuest(t *testing.T, root, release string) {
	// The session is there before the boot has ended; the sshd that came before systemd
	// is the service's in the end.
	if got := inGuest(t, root, kern, "/opt/hello/hello"); got != "hello from box" {
		t.Errorf("the first command of a fresh guest prints %q", got)
	}
	if got := inGuest(t, root, kern, booted); got != "running" {
		t.Errorf("the boot ended so: %q", got)
	}
	for line, want := range map[string]string{
		"uname -r": release,
		"systemctl is-active ssh.service; wc -l </sys/fs/cgroup/system.slice/ssh.service/cgroup.procs":                         "active\n1",
		"[ $(systemctl show -P MainPID ssh.service) -lt $(systemctl show -P MainPID systemd-journald.service) ] && echo first": "first",
		"cat /proc/modules 2>&1":       "cat: /proc/modules: No such file or directory",
		"cat /sys/kernel/security/lsm": "lockdown,capability,yama,landlock",
		"dmesg":                        "dmesg: read kernel buffer failed: Operation not permitted",
		"ls /dev/mem /proc/kcore 2>&1 | grep -c 'No such'":                             "2",
		"zcat /proc/config.gz | grep -c ^CONFIG_MODULES=":                              "0",
		"unshare -Urn true && echo ok":                                                 "ok",
		"stat -fc %T /sys/fs/cgroup":                                                   "cgroup2fs",
		"grep -cwE '9p|virtiofs|overlay|ext4|squashfs|vfat|iso9660' /proc/filesystems": "7",
		"ls /dev/net/tun /dev/vsock /dev/hwrng | wc -l":                                "3",
	} {
		if got := inGuest(t, root, kern, line); got != want {
			t.Errorf("%s\n  prints %q\n    want %q", line, got, want)
		}
	}
	for _, rules := range gatewayRules {
		// A user namespace has a packet filter of its own, to be played with.
		got := inGuest(t, root, kern, "unshare -Urn /usr/sbin/nft -f - <<'EOF' && echo ok\n"+rules+"\nEOF")
		if got != "ok" {
			t.Errorf("nft says %q to:\n%s", got, rules)
		}
	}
	for _, link := range []string{"wireguard", "bridge", "veth"} {
		if got := inGuest(t, root, kern, "unshare -Urn ip link add x0 type "+link+" && echo ok"); got != "ok" {
			t.Errorf("a link of type %s: %q", link, got)
		}
	}
}

// gatewayRules are what the packet filter of a gateway is made of.
var gatewayRules = []string{
	`table inet f {
	set s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; }
	map m { type inet_service : verdict; elements = { 22 : accept }; }
	counter c { }
	quota q { over 1 mbytes }
	chain in {
		type filter hook input priority 0; policy drop;
		ct state established,related accept
		iif lo accept
		tcp dport vmap @m
		ip saddr @s limit rate 3/second log prefix "x " group 1 counter
		counter name "c" quota name "q" drop
		fib daddr type local reject
	}
	chain nat {
		type nat hook output priority -100;
		meta skuid 0 accept
		tcp dport 80 redirect to :9040
		udp dport 53 dnat ip to 10.1.2.3:5353
	}
	chain post {
		type nat hook postrouting priority 100;
		oifname "eth0" masquerade
	}
	chain marked {
		type route hook output priority -150;
		ct mark set 1
		meta mark set 2
		quota over 1 mbytes drop
	}
}`,
	`table bridge b {
	chain f {
		type filter hook forward priority 0; policy drop;
		ether type arp accept
		ip saddr 10.0.0.1 tcp dport 9050 accept
		ct state established accept
	}
}`,
	`table netdev n {
	chain c {
		type filter hook ingress device lo priority 0;
		ip protocol icmp drop
	}
}`,
	`table ip t {
	chain p {
		type filter hook prerouting priority -150;
		tcp dport 80 tproxy to :3129
		socket transparent 1 accept
	}
}`,
}
