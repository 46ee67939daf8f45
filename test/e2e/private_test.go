package e2e

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A private host is a set of namespaces with a libvirtd, a network, processes and
// a /tmp of their own: what a test breaks there is nobody else's, what it leaves
// is seen, and all of it ends with the test.

// insideEnv names the meros under test to the test's process inside.
const insideEnv = "MEROS_E2E_INSIDE"

// maxLogPart is where a private libvirt's log daemon begins a new file, in bytes.
const maxLogPart = 4 << 10

// onPrivateHost runs the calling test once more on a private host, or returns true
// when that is where it runs.
func onPrivateHost(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		makePrivate(t)
		return true
	}
	// Of its subtests those are run that the call asks for.
	_, subtests, only := strings.Cut(flag.Lookup("test.run").Value.String(), "/")
	pattern := "^" + t.Name() + "$"
	if only {
		pattern += "/" + subtests
	}
	// The first process has to reap what others leave, which a shell that waits does:
	// libvirt waits for guests' processes to be gone altogether.
	cmd := exec.Command("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", "-c", `"$@"; exit $?`, "sh", os.Args[0], "-test.run", pattern, "-test.v", "-test.timeout", "20m")
	cmd.Env = append(os.Environ(), insideEnv+"="+binary)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("on a private host: %v\n%s", err, out)
		return false
	}
	t.Logf("%s", out)
	return false
}

// makePrivate gives the namespaces what a host has.
func makePrivate(t *testing.T) {
	t.Helper()
	content, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(syscall.Mount("sysfs", "/sys", "sysfs", 0, ""))
	for dir, mode := range map[string]string{"/run": "755", "/var/lib/libvirt": "755", "/var/log/libvirt": "755", "/tmp": "1777"} {
		must(syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode="+mode))
	}
	must(os.MkdirAll("/var/lib/libvirt/dnsmasq", 0o755))
	// cgroups are the whole host's: it goes without.
	conf := []byte("cgroup_controllers = [ ]\n")
	if old, err := os.ReadFile("/etc/libvirt/qemu.conf"); err == nil {
		conf = append(old, conf...)
	}
	must(os.WriteFile("/run/qemu.conf", conf, 0o600))
	must(syscall.Mount("/run/qemu.conf", "/etc/libvirt/qemu.conf", "", syscall.MS_BIND, ""))
	must(os.MkdirAll("/run/bin", 0o755))
	must(os.MkdirAll("/run/lock", 0o755)) // where libvirt notes who has a console
	binary = "/run/bin/meros"
	must(os.WriteFile(binary, content, 0o755))
	must(exec.Command("ip", "link", "set", "lo", "up").Run())
	must(os.WriteFile("/run/virtlogd.conf", fmt.Appendf(nil, "max_size = %d\nmax_backups = 3\n", maxLogPart), 0o600))
	startLogd(t)
	startLibvirtd(t)
}

func startLogd(t *testing.T) {
	t.Helper()
	do(t, "virtlogd", "-d", "-p", "/run/virtlogd.pid", "-f", "/run/virtlogd.conf")
}

func startLibvirtd(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("libvirtd", "-d", "-p", "/run/libvirtd.pid").CombinedOutput(); err != nil {
		t.Fatalf("libvirtd: %v\n%s", err, out)
	}
	for deadline := time.Now().Add(30 * time.Second); exec.Command("virsh", "-c", "qemu:///system", "version").Run() != nil; {
		if time.Now().After(deadline) {
			t.Fatal("libvirtd does not answer")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// killLibvirtd ends the private libvirtd as a crash would.
func killLibvirtd(t *testing.T) {
	t.Helper()
	content, err := os.ReadFile("/run/libvirtd.pid")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for syscall.Kill(pid, 0) == nil && !strings.Contains(stateOf(pid), "Z") {
		time.Sleep(10 * time.Millisecond)
	}
	// Its threads may outlive the first of them for a moment, and its socket with them.
	for {
		c, err := net.Dial("unix", "/run/libvirt/libvirt-sock")
		if err != nil {
			return
		}
		_ = c.Close()
		time.Sleep(10 * time.Millisecond)
	}
}

func stateOf(pid int) string {
	content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "Z"
	}
	_, state, _ := strings.Cut(string(content), ") ")
	return state[:1]
}

// carriers is what the kernel says of a link, up to a second late, beside whether
// somebody has set it up.
var carriers = regexp.MustCompile(`(?m)\b(UP|DOWN|UNKNOWN|LOWERLAYERDOWN) +|NO-CARRIER,|,LOWER_UP`)

// everything is all of a private host that init may change and shutdown has to
// change back, a line each.
func everything(t *testing.T, root string) []string {
	t.Helper()
	var lines []string
	add := func(what, text string) {
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line != "" {
				lines = append(lines, what+": "+line)
			}
		}
	}
	for what, argv := range map[string][]string{
		"domain":  {"virsh", "-c", "qemu:///system", "list", "--all", "--name"},
		"network": {"virsh", "-c", "qemu:///system", "net-list", "--all", "--name"},
		"rule":    {"nft", "-s", "list", "ruleset"},
		"link":    {"ip", "-o", "-brief", "link"},
		"address": {"ip", "-o", "-brief", "address"},
		"route":   {"ip", "route"},
		"sysctl":  {"sysctl", "-a", "--pattern", `forward|bridge-nf|rp_filter|accept_ra$|route_localnet|disable_ipv6|proxy_arp`},
		"file": {
			"find", filepath.Join(root, "data"), "/run", "/tmp", "-not", "-path", "*/data/log/*", "-not", "-name", "*.lock",
			"-not", "(", "-type", "d", "-path", "/run/libvirt/network/*", ")", // which libvirt keeps for each name
			"-not", "(", "-type", "d", "-path", "/run/meros*", ")", // where the host's families have their lock
			"-not", "-path", "/tmp/Test*",
		},
	} {
		out, err := exec.Command(argv[0], argv[1:]...).Output()
		if err != nil {
			t.Fatalf("%v: %v", argv, err)
		}
		if what == "link" || what == "address" {
			out = carriers.ReplaceAll(out, nil)
		}
		add(what, string(out))
	}
	add("mount", strings.Join(mountPoints(t), "\n"))
	for _, file := range names(t, "/proc/[0-9]*/cmdline") {
		if content, err := os.ReadFile(file); err == nil {
			add("process", strings.ReplaceAll(string(content), "\x00", " "))
		}
	}
	slices.Sort(lines)
	return lines
}

// wantEverything checks that a host is as it was.
func wantEverything(t *testing.T, root string, before []string) {
	t.Helper()
	var after []string
	// A process that was ended takes a moment to go.
	for range 20 {
		if after = everything(t, root); slices.Equal(after, before) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			t.Errorf("left on the host: %s", line)
		}
	}
	for _, line := range before {
		if !slices.Contains(after, line) {
			t.Errorf("taken from the host: %s", line)
		}
	}
}
