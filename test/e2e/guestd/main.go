// Command guestd stands in for Alpine's sshd in a test's package: no mirror with
// the real one can be counted on. It knows what meros gives a guest: the port and
// host key of sshd's configuration, and the user's authorised key.
package main

import (
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
)

const user, home, uid = "user", "/home/user", 1000

func main() {
	config, err := serverConfig()
	if err != nil {
		log.Fatal(err)
	}
	settings, err := os.ReadFile("/etc/ssh/sshd_config.d/10-meros.conf")
	if err != nil {
		log.Fatal(err)
	}
	port := regexp.MustCompile(`(?m)^Port (\d+)$`).FindSubmatch(settings)
	if port == nil {
		log.Fatal("no port")
	}
	l, err := net.Listen("tcp", ":"+string(port[1]))
	if err != nil {
		log.Fatal(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(c, config)
	}
}

func serverConfig() (*ssh.ServerConfig, error) {
	private, err := os.ReadFile("/etc/ssh/ssh_host_ed25519_key")
	if err != nil {
		return nil, err
	}
	host, err := ssh.ParsePrivateKey(private)
	if err != nil {
		return nil, err
	}
	line, err := os.ReadFile(home + "/.ssh/authorized_keys")
	if err != nil {
		return nil, err
	}
	authorized, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return nil, err
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if c.User() != user || string(key.Marshal()) != string(authorized.Marshal()) {
			return nil, errors.New("not authorised")
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	return config, nil
}

func serve(c net.Conn, config *ssh.ServerConfig) {
	_, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for ch := range channels {
		if ch.ChannelType() != "session" {
			_ = ch.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		channel, requests, err := ch.Accept()
		if err != nil {
			return
		}
		go session(channel, requests)
	}
}

func session(c ssh.Channel, requests <-chan *ssh.Request) {
	defer c.Close()
	for r := range requests {
		if r.Type != "exec" {
			_ = r.Reply(false, nil)
			continue
		}
		var payload struct{ Command string }
		if err := ssh.Unmarshal(r.Payload, &payload); err != nil {
			return
		}
		_ = r.Reply(true, nil)
		status := execute(c, payload.Command)
		_, _ = c.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
		return
	}
}

func execute(c ssh.Channel, line string) int {
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Dir, cmd.Stdout, cmd.Stderr = home, c, c.Stderr()
	cmd.Env = []string{"HOME=" + home, "USER=" + user, "PATH=/usr/local/bin:/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(c.Stderr(), strings.TrimSpace(err.Error()))
		return 127
	}
	return 0
}
