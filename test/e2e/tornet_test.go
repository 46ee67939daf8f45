package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A private Tor network and the internet it lives in: a network namespace behind
// the uplink of a private host, in which three directory authorities and two exits
// run, Debian's tor each with an address of its own, beside a web server and a
// name server. Nobody else is asked for anything. The options are those of tor(1),
// TESTING NETWORK OPTIONS.

const (
	worldNS   = "world"
	uplink    = "up0"
	hostAddr  = "203.0.113.2" // what the internet sees of the host
	worldAddr = "203.0.113.1"
	webAddr   = "192.0.2.80"
	webName   = "www.example.org"
	nameAddr  = "192.0.2.53"

	none    = "/nonexistent" // no torrc
	torPort = 9001           // of each relay
	dirPort = 9030           // of each authority
)

// torNode is one tor of the network.
type torNode struct {
	name, addr string
	authority  bool
	v3, relay  string // fingerprints
}

// torNet is the network's description: its keys lie in dir.
type torNet struct {
	dir   string
	nodes []torNode
}

// relays are the addresses that a client of the network connects to.
func (n torNet) relays() []string {
	var addrs []string
	for _, node := range n.nodes {
		addrs = append(addrs, node.addr)
	}
	return addrs
}

// exits are the addresses from which a client's streams come to their end.
func (n torNet) exits() []string {
	var addrs []string
	for _, node := range n.nodes {
		if !node.authority {
			addrs = append(addrs, node.addr)
		}
	}
	return addrs
}

// clientConf is what a tor needs in its torrc to use this network and no other.
func (n torNet) clientConf() string {
	// The second line is the default, which the first one changes.
	text := "TestingTorNetwork 1\nClientRejectInternalAddresses 1\n"
	for _, a := range n.nodes {
		if a.authority {
			text += fmt.Sprintf("DirAuthority %s orport=%d no-v2 v3ident=%s %s:%d %s\n", a.name, torPort, a.v3, a.addr, dirPort, a.relay)
		}
	}
	return text
}

// newTorNet makes the keys of a network in dir, which may hold them already.
func newTorNet(t *testing.T, dir string) torNet {
	t.Helper()
	n := torNet{dir: dir}
	for i := range 5 {
		node := torNode{name: fmt.Sprintf("node%d", i+1), addr: fmt.Sprintf("198.51.100.%d", i+1), authority: i < 3}
		keys := filepath.Join(dir, node.name, "keys")
		if err := os.MkdirAll(keys, 0o700); err != nil {
			t.Fatal(err)
		}
		if node.authority {
			node.v3 = makeAuthority(t, keys, node.addr)
		}
		node.relay = makeRelay(t, filepath.Join(dir, node.name), node)
		n.nodes = append(n.nodes, node)
	}
	return n
}

var fingerprint = regexp.MustCompile(`(?m)^fingerprint ([0-9A-F]{40})$`)

// makeAuthority makes an authority's identity unless it is there, and returns its
// fingerprint.
func makeAuthority(t *testing.T, keys, addr string) string {
	t.Helper()
	file := filepath.Join(keys, "authority_certificate")
	if _, err := os.Stat(file); err != nil {
		cmd := exec.Command("tor-gencert", "--create-identity-key", "-m", "12", "-a", fmt.Sprintf("%s:%d", addr, dirPort), "--passphrase-fd", "0")
		cmd.Dir, cmd.Stdin = keys, strings.NewReader("\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("tor-gencert: %v\n%s", err, out)
		}
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := fingerprint.FindSubmatch(content)
	if found == nil {
		t.Fatalf("no fingerprint in\n%s", content)
	}
	return string(found[1])
}

// makeRelay makes a relay's keys unless they are there, and returns its
// fingerprint. tor refuses TestingTorNetwork without the authorities' lines, which
// hold that very fingerprint: it is asked without.
func makeRelay(t *testing.T, data string, node torNode) string {
	t.Helper()
	out, err := exec.Command("tor", "--list-fingerprint", "--quiet", "--ignore-missing-torrc", "-f", none, "--defaults-torrc", none, "--DataDirectory", data,
		"--Nickname", node.name, "--ORPort", fmt.Sprint(torPort), "--Address", node.addr, "--User", "root").CombinedOutput()
	_, print, ok := strings.Cut(strings.TrimSpace(string(out)), node.name+" ")
	if err != nil || !ok {
		t.Fatalf("tor --list-fingerprint: %v\n%s", err, out)
	}
	return strings.ReplaceAll(print, " ", "")
}

// nodeData is what a node keeps while it runs, its keys included. It begins anew at
// each start: authorities take what a relay says twice for old.
func nodeData(node torNode) string { return "/run/tor-" + node.name }

// conf is a node's torrc.
func (n torNet) conf(node torNode) string {
	lines := []string{
		"DataDirectory " + nodeData(node), "Nickname " + node.name, "User root", "SocksPort 0",
		"Address " + node.addr, "OutboundBindAddress " + node.addr, fmt.Sprintf("ORPort %s:%d", node.addr, torPort),
		"AssumeReachable 1", "Log notice file " + nodeData(node) + "/log",
	}
	if node.authority {
		lines = append(lines, "DirPort "+fmt.Sprintf("%s:%d", node.addr, dirPort), "AuthoritativeDirectory 1", "V3AuthoritativeDirectory 1", "ExitPolicy reject *:*",
			"ContactInfo none@example.org", "TestingDirAuthVoteExit *", "TestingDirAuthVoteGuard *", "TestingDirAuthVoteHSDir *",
			"V3AuthVotingInterval 20", "V3AuthVoteDelay 4", "V3AuthDistDelay 4",
			"TestingV3AuthInitialVotingInterval 20", "TestingV3AuthInitialVoteDelay 4", "TestingV3AuthInitialDistDelay 4")
	} else {
		lines = append(lines, "ExitRelay 1", "ExitPolicy accept *:*", "ExitPolicyRejectPrivate 1", "ServerDNSDetectHijacking 0",
			"ServerDNSAllowBrokenConfig 1", "ServerDNSResolvConfFile "+filepath.Join(n.dir, "resolv.conf"))
	}
	return strings.Join(lines, "\n") + "\n" + n.clientConf()
}

// world is the internet under way.
type world struct {
	names string // the name server's log

	mu   sync.Mutex
	seen []visit
}

// visit is what the web server sees of one who asks for a page.
type visit struct{ from, agent string }

func (w *world) visits() []visit {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

// command runs a program of the host that has to succeed.
func command(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
}

// startWorld makes the internet behind this private host's uplink. It ends with
// the test.
func (n torNet) startWorld(t *testing.T) *world {
	t.Helper()
	command(t, "ip", "netns", "add", worldNS)
	command(t, "ip", "link", "add", uplink, "type", "veth", "peer", "name", "host", "netns", worldNS)
	// As narrow as can be: what the host has a subnet of is its LAN, not the internet.
	command(t, "ip", "address", "add", hostAddr+"/30", "dev", uplink)
	command(t, "ip", "link", "set", uplink, "up")
	command(t, "ip", "route", "add", "default", "via", worldAddr)
	inside := func(argv ...string) []string { return append([]string{"ip", "netns", "exec", worldNS}, argv...) }
	command(t, inside("ip", "link", "set", "lo", "up")...)
	command(t, inside("ip", "link", "set", "host", "up")...)
	command(t, inside("ip", "address", "add", worldAddr+"/30", "dev", "host")...)
	// A guest's own address would be answered too: what leaks is to be seen.
	command(t, inside("ip", "route", "add", "10.60.0.0/16", "via", hostAddr)...)
	for _, addr := range append(n.relays(), webAddr, nameAddr) {
		command(t, inside("ip", "address", "add", addr+"/32", "dev", "lo")...)
	}
	w := &world{names: "/run/names.log"}
	resolv := filepath.Join(n.dir, "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver "+nameAddr+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	background(t, inside("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file", "--no-resolv", "--no-hosts",
		"--listen-address="+nameAddr, "--bind-interfaces", "--address=/"+webName+"/"+webAddr, "--log-queries", "--log-facility="+w.names)...)
	for _, node := range n.nodes {
		if err := os.CopyFS(filepath.Join(nodeData(node), "keys"), os.DirFS(filepath.Join(n.dir, node.name, "keys"))); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(nodeData(node), 0o700); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(n.dir, node.name+".torrc")
		if err := os.WriteFile(file, []byte(n.conf(node)), 0o600); err != nil {
			t.Fatal(err)
		}
		background(t, inside("tor", "-f", file, "--defaults-torrc", none, "--quiet")...)
	}
	w.serve(t)
	return w
}

// background runs a program until the test ends.
func background(t *testing.T, argv ...string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

// serve is the web server: it tells callers the address that they have.
func (w *world) serve(t *testing.T) {
	t.Helper()
	var l net.Listener
	inNetNS(t, worldNS, func() (err error) {
		l, err = net.Listen("tcp", webAddr+":80")
		return err
	})
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		w.mu.Lock()
		w.seen = append(w.seen, visit{host, r.UserAgent()})
		w.mu.Unlock()
		fmt.Fprintf(rw, "you are %s\n", host)
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
}

// inNetNS does something that opens sockets in a network namespace of ip-netns(8).
func inNetNS(t *testing.T, name string, do func() error) {
	t.Helper()
	runtime.LockOSThread() // a namespace is a thread's: setns(2)
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	other, err := os.Open("/run/netns/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := unix.Setns(int(other.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	err = do()
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		t.Fatal(back) // the thread stays locked, and ends with its goroutine
	}
	runtime.UnlockOSThread()
	if err != nil {
		t.Fatal(err)
	}
}
