package rootfs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"meros/internal/proc"
)

// Populate is what the stage of that name reads.
type Populate struct {
	User     string   // made if the tree does not have it; "": none
	Includes []string // folders of the host laid over /, in this order
	Pkg      string   // folder of the host copied to /opt; "": none
}

// populate makes the user and lays the recipe's files over the tree.
func populate(ctx context.Context, r proc.Runner, root string, a Populate) error {
	u, err := addUser(ctx, r, root, a.User)
	if err != nil {
		return err
	}
	for _, dir := range a.Includes {
		if err := copyTree(root, "/", dir, u); err != nil {
			return fmt.Errorf("lay %s over the rootfs: %w", dir, err)
		}
	}
	if a.Pkg == "" {
		return nil
	}
	if err := copyTree(root, "/opt", a.Pkg, u); err != nil {
		return fmt.Errorf("copy %s to /opt: %w", a.Pkg, err)
	}
	return nil
}

// account is a user of the tree. What the recipe lays below its home is its
// own; everything else is root's.
type account struct {
	uid, gid int
	home     string // as seen in the tree; "" if there is no such user
}

// addUser makes a user without a valid password: "*" matches none, and unlike
// a locked account it may log in by key (shadow(5), sshd(8)).
func addUser(ctx context.Context, r proc.Runner, root, name string) (account, error) {
	if name == "" {
		return account{}, nil
	}
	t := tree{root}
	if u, ok, err := t.lookupUser(name); ok || err != nil {
		return u, err
	}
	c := &chroot{tree: t, r: r}
	argv := []string{"useradd", "--create-home", "--shell", t.loginShell(), "--password", "*", "--", name}
	if !t.has("usr/sbin/useradd") {
		argv = []string{"adduser", "-D", "-s", t.loginShell(), name} // busybox's
	}
	if err := c.run(ctx, nil, argv...); err != nil {
		return account{}, fmt.Errorf("add the user %s: %w", name, err)
	}
	if err := t.unlock(name); err != nil {
		return account{}, err
	}
	u, ok, err := t.lookupUser(name)
	if err == nil && !ok {
		err = fmt.Errorf("add the user %s: not in /etc/passwd afterwards", name)
	}
	return u, err
}

// unlock replaces the "!" that adduser leaves as password by "*".
func (t tree) unlock(name string) error {
	return t.rewrite("etc/shadow", func(old string) string {
		lines := strings.SplitAfter(old, "\n")
		for i, line := range lines {
			if rest, ok := strings.CutPrefix(line, name+":!:"); ok {
				lines[i] = name + ":*:" + rest
			}
		}
		return strings.Join(lines, "")
	})
}

func (t tree) loginShell() string {
	if t.has("bin/bash") {
		return "/bin/bash"
	}
	return "/bin/sh"
}

// lookupUser reads the tree's own /etc/passwd (passwd(5)), never the host's.
func (t tree) lookupUser(name string) (account, bool, error) {
	content, err := t.read("etc/passwd")
	if err != nil {
		return account{}, false, err
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) < 7 || fields[0] != name {
			continue
		}
		uid, uidErr := strconv.Atoi(fields[2])
		gid, gidErr := strconv.Atoi(fields[3])
		if err := errors.Join(uidErr, gidErr); err != nil {
			return account{}, false, fmt.Errorf("/etc/passwd: %s: %w", name, err)
		}
		return account{uid: uid, gid: gid, home: filepath.Clean(fields[5])}, true, nil
	}
	return account{}, false, nil
}

// owner is who gets a path of the tree.
func (u account) owner(path string) (uid, gid int) {
	if u.home != "" && u.home != "/" && strings.HasPrefix(path, u.home+"/") {
		return u.uid, u.gid
	}
	return 0, 0
}
