package tarball

import (
	"archive/tar"
	"context"
	"io"
	"os"
	"regexp"

	"meros/internal/proc"
)

// Kernel unpacks into root what of a .deb is a kernel: boot/vmlinuz-*, its
// configuration, and the modules. All of it becomes the caller's, with plain modes;
// links are left out, since those of Debian's lead to where it was compiled, and
// devices are refused. dpkg is how dpkg-deb is called: it gets the .deb on standard
// input, and runs none of the package's scripts.
func Kernel(ctx context.Context, r proc.Runner, dpkg proc.Cmd, deb io.Reader, root string) error {
	out, in := io.Pipe()
	ended := make(chan error, 1)
	dpkg.Argv, dpkg.Stdin, dpkg.Stdout = append(dpkg.Argv, "--fsys-tarfile", "-"), deb, in
	go func() {
		err := r.Run(ctx, dpkg)
		in.CloseWithError(err)
		ended <- err
	}()
	err := Unpack(out, root, kernelOnly)
	if err == nil { // behind the archive's end may be padding
		_, err = io.Copy(io.Discard, out)
	}
	out.CloseWithError(err)
	if ran := <-ended; err == nil {
		err = ran
	}
	return err
}

var kernelNames = regexp.MustCompile(`^(boot/(vmlinuz|config)-[^/]+|(usr/)?lib/modules/.+)$`)

func kernelOnly(name string, h *tar.Header) bool {
	if !kernelNames.MatchString(name) || h.Typeflag == tar.TypeSymlink {
		return false
	}
	h.Uid, h.Gid, h.Mode = os.Geteuid(), os.Getegid(), 0o644
	if h.Typeflag == tar.TypeDir {
		h.Mode = 0o755
	}
	return true
}
