package lifecycle

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"meros/internal/family"
	"meros/internal/netfilter"
	"meros/internal/proc"
	"meros/internal/virt"
)

// change rewrites a file of the family.
func (b *bench) change(file, old, now string) {
	b.t.Helper()
	path := filepath.Join(b.Paths.Family(b.family), file)
	content, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(content), old) {
		b.t.Fatalf("%s: %v: no %q in %q", file, err, old, content)
	}
	if err := b.Paths.WriteFile(path, []byte(strings.ReplaceAll(string(content), old, now)), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) load() *family.Family {
	b.t.Helper()
	f, err := family.Load(b.Paths, b.family)
	if err != nil {
		b.t.Fatal(err)
	}
	return f
}

// filterInfo is what info says of the family's rules.
func (b *bench) filterInfo() string {
	b.t.Helper()
	info, err := b.Info(b.t.Context(), b.family)
	if err != nil {
		b.t.Fatal(err)
	}
	return info.Families[0].Filter
}

// A guest that was started without a policy has ports that no rule matches.
func TestPolicyComesLate(t *testing.T) {
	for name, kept := range map[string]string{"no rules before": "", "own rules before": "netfilter/10.nft"} {
		t.Run(name, func(t *testing.T) {
			files := guarded()
			policy := files["netfilter/policy.xml"]
			maps.DeleteFunc(files, func(name, _ string) bool { return strings.HasPrefix(name, "netfilter/") && name != kept })
			b, _ := newGuardedBench(t, files)
			if err := b.init(t.Context(), InitOptions{}); err != nil {
				t.Fatalf("%v\n%s", err, b.said)
			}
			if err := b.Paths.WriteFile(filepath.Join(b.Paths.Family(b.family), "netfilter/policy.xml"), []byte(policy), 0o644); err != nil {
				t.Fatal(err)
			}
			words := []string{"is not on the bridge", "meros shutdown " + b.family + ", then meros init"}
			if got := b.filterInfo(); got != FilterGone {
				t.Errorf("info says the rules are %q, want %q", got, FilterGone)
			}
			b.wantError(b.init(t.Context(), InitOptions{}), words...)
			_, err := b.ApplyPolicy(t.Context(), b.load())
			b.wantError(err, words[1])
			if got := b.filterInfo(); got != FilterGone {
				t.Errorf("after an init: info says the rules are %q, want %q", got, FilterGone)
			}
			b.wantRuns("-box", "_lan")
			b.cleanUp()
			if got := b.filterInfo(); got != "" {
				t.Errorf("once nothing runs: info says the rules are %q", got)
			}
		})
	}
}

// standIn puts a network namespace with a server at port 22 in the place of the box's
// guest, which has no system: behind a port of the same name, address and MAC.
func (b *bench) standIn(bridge string) {
	b.t.Helper()
	rules, err := b.Rules(b.load())
	if err != nil {
		b.t.Fatal(err)
	}
	sleep := exec.Command("sleep", "600")
	sleep.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := sleep.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = sleep.Process.Kill(); _ = sleep.Wait() })
	p := rules.Ports[0]
	peer, pid := strings.Replace(p.Dev, "mp", "mx", 1), fmt.Sprint(sleep.Process.Pid)
	for line := range strings.Lines(strings.NewReplacer("DEV", p.Dev, "PEER", peer, "PID", pid, "MAC", p.MAC, "ADDR", p.Addrs[0].String(), "BRIDGE", bridge).Replace(
		`ip link set dev DEV down
		ip link set dev DEV nomaster name oPEER
		ip link add name DEV type veth peer name PEER netns PID
		ip link set dev DEV master BRIDGE up
		nsenter -t PID -n ip link set dev PEER address MAC up
		nsenter -t PID -n ip addr add ADDR/24 dev PEER
		`)) {
		if words := strings.Fields(line); len(words) > 0 {
			hostText(b.t, words...)
		}
	}
	// A connection that is cut keeps its namespace, and with it the link, for minutes.
	b.t.Cleanup(func() { _ = exec.Command("ip", "link", "delete", "dev", p.Dev).Run() })
	b.serve(sleep.Process.Pid)
}

// serve echoes what is sent to port 22 of a process's network namespace.
func (b *bench) serve(pid int) {
	b.t.Helper()
	listening := make(chan error)
	var l net.Listener
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with us
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			l, err = net.Listen("tcp4", ":22")
		}
		listening <- err
	}()
	if err := <-listening; err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.(*net.TCPConn).SetLinger(0)
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// answers reports whether a connection still carries anything there and back.
func answers(c net.Conn, within time.Duration) bool {
	_ = c.SetDeadline(time.Now().Add(within))
	if _, err := c.Write([]byte("x")); err != nil {
		return false
	}
	_, err := c.Read(make([]byte, 1))
	return err == nil
}

// A connection that was begun under a policy does not outlive it.
func TestChangedPolicyCuts(t *testing.T) {
	acts := map[string]func(*bench) error{
		"init": func(b *bench) error { return b.init(b.t.Context(), InitOptions{}) },
		"policy apply": func(b *bench) error {
			_, err := b.ApplyPolicy(b.t.Context(), b.load())
			return err
		},
	}
	for name, act := range acts {
		t.Run(name, func(t *testing.T) {
			b, bridge := newGuardedBench(t, guarded())
			if err := b.init(t.Context(), InitOptions{}); err != nil {
				t.Fatalf("%v\n%s", err, b.said)
			}
			b.standIn(bridge)
			c, err := net.DialTimeout("tcp4", b.load().Targets[0].Addr.String()+":22", 20*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if !answers(c, 20*time.Second) {
				t.Fatal("what is allowed does not work")
			}
			// With the same rules it goes on.
			if err := b.init(t.Context(), InitOptions{}); err != nil || !answers(c, 20*time.Second) {
				t.Fatalf("after another init it does not go on: %v\n%s", err, b.said)
			}
			b.change("netfilter/policy.xml", `ports="22"`, `ports="23"`)
			if err := act(b); err != nil {
				t.Fatalf("%v\n%s", err, b.said)
			}
			if answers(c, 3*time.Second) {
				t.Error("the connection goes on under a policy that does not allow it")
			}
		})
	}
}

// noNft is a host whose nft loads nothing from some moment on.
type noNft struct {
	proc.Runner
	since string // a file
}

func (r noNft) Run(ctx context.Context, c proc.Cmd) error {
	if _, err := os.Stat(r.since); err == nil && slices.Contains(c.Argv, "-f") {
		return &proc.ExitError{Argv: c.Argv, Code: 1, Stderr: "no"}
	}
	return r.Runner.Run(ctx, c)
}

// A hook that takes the rules away from guests which ran before init fails init, and
// leaves no guest without rules: they come back, or the power goes.
func TestRulesGoneInAnotherInit(t *testing.T) {
	for name, loads := range map[string]bool{"come back": true, "do not come back": false} {
		t.Run(name, func(t *testing.T) {
			b, _ := newGuardedBench(t, guarded())
			if err := b.init(t.Context(), InitOptions{}); err != nil {
				t.Fatalf("%v\n%s", err, b.said)
			}
			flag := filepath.Join(t.TempDir(), "broken")
			b.hook("10-flush", "#!/bin/sh\nnft delete table inet "+netfilter.Table(b.family)+"\n"+map[bool]string{false: "touch " + flag}[loads]+"\n")
			b.Runner = noNft{b.Runner, flag}
			err := b.init(t.Context(), InitOptions{})
			_ = os.Remove(flag)
			b.wantError(err, "are changed")
			if now := b.filterNow(t.Context(), b.family); loads {
				b.wantRuns("-box", "_lan")
				if now != FilterOK {
					t.Errorf("the rules are %q", now)
				}
			} else {
				b.wantRuns("_lan")
			}
		})
	}
}

// What is beside a guest's port, and where that is, is looked at before it runs.
func TestGuestIsNotLetAmongStrangers(t *testing.T) {
	for words, act := range map[string]func(bridge, dev string) []string{
		"has a port mty": func(bridge, _ string) []string {
			return []string{"link", "add", "mty", "master", bridge, "type", "veth", "peer", "name", "mtz"}
		},
		"is not on the bridge": func(_, dev string) []string { return []string{"link", "set", "dev", dev, "nomaster"} },
	} {
		t.Run(words, func(t *testing.T) {
			b, bridge := newGuardedBench(t, guarded())
			dev := netfilter.Device(b.family+"-box", 0)
			t.Cleanup(func() { _ = exec.Command("ip", "link", "delete", "mty").Run() })
			b.watch(watching{
				held: func() { hostText(t, append([]string{"ip"}, act(bridge, dev)...)...) },
				let:  func(name string) { t.Errorf("%s is let run", name) },
			})
			b.wantError(b.init(t.Context(), InitOptions{}), words)
			b.wantRuns()
		})
	}
}

// Those that others come after are let run first, whatever their names.
func TestPolicyKeepsTheOrder(t *testing.T) {
	files := guarded()
	for name, after := range map[string]string{"a": "z", "z": "box"} {
		files["build/"+name+".xml"] = `<target><build id="` + name + `" kernel="no" after="` + after + `"/></target>`
		files["libvirt/"+name+".xml"] = strings.Replace(files["libvirt/box.xml"], "32</memory>", "33</memory>", 1)
	}
	files["netfilter/policy.xml"] = strings.Replace(files["netfilter/policy.xml"], "<policy>",
		`<policy><port target="a" network="lan" addr="10.62.$OCTET.3"/><port target="z" network="lan" addr="10.62.$OCTET.4"/>`, 1)
	b, _ := newGuardedBench(t, files)
	var order []string
	b.watch(watching{let: func(name string) { order = append(order, strings.TrimPrefix(name, b.family)) }})
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatalf("%v\n%s", err, b.said)
	}
	if want := []string{"-box", "-z", "-a"}; !slices.Equal(order, want) {
		t.Errorf("let run: %q, want %q", order, want)
	}
	// The same where they were held by a meros that died.
	order = nil
	domains, err := b.daemon.Domains(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range domains {
		if d.Owner.Family == b.family {
			if err := b.daemon.(*virt.Conn).Suspend(t.Context(), d); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := b.init(t.Context(), InitOptions{}); err != nil {
		t.Fatalf("%v\n%s", err, b.said)
	}
	if want := []string{"-box", "-z", "-a"}; !slices.Equal(order, want) {
		t.Errorf("let run again: %q, want %q", order, want)
	}
}

// What does not run, or sends nothing, leaves a part of the policy untried.
func TestVerifySaysWhatWasNotTried(t *testing.T) {
	files := guarded()
	for name, content := range files {
		files[name] = strings.Replace(content, `<details username="user"/>`, "", 1)
	}
	files["build/off.xml"] = `<target><build id="off" kernel="no"/></target>`
	files["libvirt/off.xml"] = files["libvirt/box.xml"]
	files["netfilter/policy.xml"] = strings.Replace(files["netfilter/policy.xml"], "<policy>", `<policy><port target="off" network="lan" addr="10.62.$OCTET.3"/>`, 1)
	b, _ := newGuardedBench(t, files)
	f := b.load()
	if err := b.Init(t.Context(), f, []*family.Target{f.Target("box")}, InitOptions{Accel: virt.AccelTCG}); err != nil {
		t.Fatalf("%v\n%s", err, b.said)
	}
	domains, err := b.daemon.Domains(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v := &verifier{Guests: b.Guests, f: f}
	if err := v.look(t.Context(), domains); err != nil {
		t.Fatal(err)
	}
	said := strings.Join(v.out.Untried, "; ")
	for _, want := range []string{b.family + "-off does not run", "no guest that runs takes sessions"} {
		if !strings.Contains(said, want) {
			t.Errorf("untried: %q, want it to say %q", said, want)
		}
	}
}

// What is allowed by way of a next hop that does not run is not expected to arrive.
func TestVerifyPlansForWhatRuns(t *testing.T) {
	files := guarded()
	files["build/gate.xml"] = `<target><build id="gate" kernel="no"/></target>`
	files["libvirt/gate.xml"] = files["libvirt/box.xml"]
	files["netfilter/policy.xml"] = `<policy><port target="gate" network="lan" addr="10.62.$OCTET.3"/>
		<allow from="box" to="internet" via="gate" proto="tcp"/><allow from="box" to="gate" proto="udp" ports="53"/></policy>`
	b, _ := newGuardedBench(t, files)
	f := b.load()
	rules, err := b.Rules(f)
	if err != nil {
		t.Fatal(err)
	}
	for gate, want := range map[string][]string{"runs": {"gate", "internet"}, "is off": nil} {
		v := &verifier{Guests: b.Guests, f: f, rules: rules, running: map[string]virt.Domain{"box": {}}}
		if gate == "runs" {
			v.running["gate"] = virt.Domain{}
		}
		v.senders = []*sender{newSender(v, f.Target("box"))}
		v.around.MACs = map[string]string{f.Policy.Segments[0].Bridge: "02:00:00:00:00:01"}
		var got []string
		for _, p := range v.plan() {
			if p.Pass {
				got = append(got, p.Receiver)
			}
		}
		slices.Sort(got)
		if got = slices.Compact(got); !slices.Equal(got, want) {
			t.Errorf("gate %s: allowed packets to %q, want %q", gate, got, want)
		}
	}
}
