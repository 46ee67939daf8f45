package layout

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Runtime makes the folder that holds this root's sockets while something runs,
// open to its owner only, and returns it. It lies in XDG_RUNTIME_DIR, without
// one in /run for root and in /tmp for others. A folder that somebody else has
// made there is refused.
func (p Paths) Runtime(getenv func(string) string) (string, error) {
	uid := os.Geteuid()
	if p.Owner != (Owner{}) {
		uid = p.Owner.UID
	}
	dir := p.runtimeDir(getenv, uid)
	if err := os.Mkdir(dir, 0o700); err == nil {
		if err := p.Owner.Give(dir); err != nil {
			return "", err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || info.Mode().Perm() != 0o700 || int(owner.Uid) != uid {
		return "", fmt.Errorf("%s is not a folder of yours alone: somebody else made it, or changed its mode", dir)
	}
	return dir, nil
}

// runtimeDir keeps roots apart by a hash: a socket's path has to fit 107 bytes
// (unix(7)), and a root's may be long.
func (p Paths) runtimeDir(getenv func(string) string, uid int) string {
	sum := sha256.Sum256([]byte(p.Root))
	hash := fmt.Sprintf("%x", sum[:4])
	if base := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(base) && isDir(base) {
		return filepath.Join(base, "meros-"+hash)
	}
	base := "/tmp"
	if os.Geteuid() == 0 {
		base = "/run"
	}
	return filepath.Join(base, "meros-"+strconv.Itoa(uid)+"-"+hash)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
