package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"

	"meros/internal/hint"
	"meros/internal/proc"
)

// idsNeeded is how many subordinate ids a rootfs takes: all of 16 bits but 0,
// which is the caller (Debian policy 9.2.2: nobody is 65534).
const idsNeeded = 65535

// idRange is a range of subordinate ids, of /etc/subuid or /etc/subgid.
type idRange struct{ first, count int }

// CheckUser reports what keeps an ordinary user from running steps: a range of
// subordinate ids and the programs that map them (subuid(5), newuidmap(1)).
// Root needs neither.
func CheckUser() error {
	if os.Geteuid() == 0 {
		return nil
	}
	_, _, err := subordinate()
	return err
}

func subordinate() (uids, gids idRange, err error) {
	for _, program := range []string{"newuidmap", "newgidmap"} {
		if _, err := proc.Find(program); err != nil {
			return uids, gids, hint.Add(err, "sudo apt-get install uidmap (or your distribution's package of %s), or build as root: sudo meros build …", program)
		}
	}
	uid := strconv.Itoa(os.Getuid())
	name := uid
	if me, err := user.Current(); err == nil {
		name = me.Username
	}
	if uids, err = rangeIn("/etc/subuid", name, uid); err != nil {
		return uids, gids, err
	}
	gids, err = rangeIn("/etc/subgid", name, uid)
	return uids, gids, err
}

// rangeIn finds a range that is long enough for the user, by name or id.
func rangeIn(file, name, uid string) (idRange, error) {
	f, err := os.Open(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return idRange{}, err
	}
	if err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if r, ok := parseRange(lines.Text(), name, uid); ok {
				return r, nil
			}
		}
	}
	return idRange{}, hint.Add(fmt.Errorf("%s gives %s no range of %d ids: %w", file, name, idsNeeded, fs.ErrPermission),
		"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s (or any range that nobody has)", name)
}

// parseRange reads a line NAME:FIRST:COUNT.
func parseRange(line, name, uid string) (idRange, bool) {
	fields := strings.Split(line, ":")
	if len(fields) != 3 || fields[0] != name && fields[0] != uid {
		return idRange{}, false
	}
	first, firstErr := strconv.Atoi(fields[1])
	count, countErr := strconv.Atoi(fields[2])
	ok := firstErr == nil && countErr == nil && first > 0 && count >= idsNeeded
	return idRange{first, count}, ok
}

// mapIDs gives the process pid, alone in a new user namespace, the caller as
// root and the subordinate ids as all others.
func mapIDs(ctx context.Context, r proc.Runner, pid int) error {
	uids, gids, err := subordinate()
	if err != nil {
		return err
	}
	for _, m := range []struct {
		program string
		own     int
		ids     idRange
	}{{"newuidmap", os.Getuid(), uids}, {"newgidmap", os.Getgid(), gids}} {
		argv := []string{
			m.program, strconv.Itoa(pid), "0", strconv.Itoa(m.own), "1",
			"1", strconv.Itoa(m.ids.first), strconv.Itoa(idsNeeded),
		}
		if err := r.Run(ctx, proc.Cmd{Argv: argv}); err != nil {
			return fmt.Errorf("map subordinate ids: %w", err)
		}
	}
	return nil
}
