package image_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"meros/internal/hint"
	"meros/internal/image"
	"meros/internal/proc"
	"meros/internal/proc/proctest"
	"meros/internal/ui"
)

func needTools(t *testing.T) {
	t.Helper()
	if err := image.CheckTools(); err != nil {
		t.Skip(err)
	}
}

// tree makes a small rootfs with the kinds of files that packing must keep.
func tree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	write := func(name string, size int, mode os.FileMode) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.Repeat([]byte("x"), size), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/hostname", 5, 0o644)
	write("bin/su", 100, 0o755|os.ModeSetuid)
	write("big", 3<<20+1, 0o600)
	for _, err := range []error{
		os.Link(filepath.Join(root, "big"), filepath.Join(root, "big-too")),
		os.Symlink("/etc/hostname", filepath.Join(root, "link")),
		unix.Mkfifo(filepath.Join(root, "fifo"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	sparse, err := os.Create(filepath.Join(root, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer sparse.Close()
	if err := sparse.Truncate(4 << 30); err != nil {
		t.Fatal(err)
	}
	return root
}

// dump runs debugfs on the file system in an image and returns what it says.
func dump(t *testing.T, file, request string) string {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	var out bytes.Buffer
	for _, argv := range [][]string{
		{"qemu-img", "convert", "-O", "raw", file, raw},
		{"debugfs", "-R", request, raw + "?offset=1048576"},
	} {
		path, err := proc.Find(argv[0])
		if err != nil {
			t.Fatal(err)
		}
		argv[0] = path
		if err := (proc.Host{}).Run(t.Context(), proc.Cmd{Argv: argv, Stdout: &out}); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

// wantOwnersOnly makes sure that no other user of the host may read an image.
func wantOwnersOnly(t *testing.T, file string) {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("the mode of the image is %o, want 600", mode)
	}
}

func TestPackMakesACheckedImageWithRoom(t *testing.T) {
	needTools(t)
	out := filepath.Join(t.TempDir(), "x.qcow2")
	o := image.Options{Name: "mos_demo-box", FreeMB: 50, UUIDs: image.UUIDsOf("mos_demo-box"), Epoch: 1577836800}
	if err := image.Pack(t.Context(), proc.Host{}, tree(t), out, o); err != nil {
		t.Fatal(err)
	}
	if err := image.Check(t.Context(), proc.Host{}, out, io.Discard); err != nil {
		t.Error(err)
	}
	wantOwnersOnly(t, out)
	super := dump(t, out, "stats -h")
	for _, want := range []string{"Filesystem UUID:          " + o.UUIDs.Root, "Filesystem volume name:   mos_demo-box", "Reserved block count:     0"} {
		if !strings.Contains(super, want) {
			t.Errorf("the file system lacks %q:\n%s", want, super)
		}
	}
	for request, want := range map[string]string{
		"stat /bin/su":  "Mode:  04755",
		"stat /big-too": "Links: 2",
		"stat /link":    `Fast link dest: "/etc/hostname"`,
		"stat /fifo":    "Type: FIFO",
		"stat /sparse":  "Blockcount: 0",
	} {
		if got := dump(t, out, request); !strings.Contains(got, want) {
			t.Errorf("%s: want %q in\n%s", request, want, got)
		}
	}
}

func TestPackTwiceIsTheSame(t *testing.T) {
	needTools(t)
	root, dir := tree(t), t.TempDir()
	var images [3][]byte
	for i := range images {
		out := filepath.Join(dir, "x.qcow2")
		o := image.Options{Name: "t", FreeMB: 10, UUIDs: image.UUIDsOf("t"), Epoch: 1}
		if err := image.Pack(t.Context(), proc.Host{}, root, out, o); err != nil {
			t.Fatal(err)
		}
		var err error
		if images[i], err = os.ReadFile(out); err != nil {
			t.Fatal(err)
		}
		os.Remove(out)
	}
	// The first packing reads the files, which sets their access times.
	if !bytes.Equal(images[1], images[2]) {
		t.Error("two packings of one tree differ")
	}
}

func TestPackSizes(t *testing.T) {
	needTools(t)
	for _, free := range []int{1, 127, 130, 1800, 9000} {
		out := filepath.Join(t.TempDir(), "x.qcow2")
		root := t.TempDir()
		if err := os.WriteFile(filepath.Join(root, "f"), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		o := image.Options{Name: "t", FreeMB: free, UUIDs: image.UUIDsOf("t"), Epoch: 1}
		if err := image.Pack(t.Context(), proc.Host{}, root, out, o); err != nil {
			t.Errorf("%d MiB free: %v", free, err)
			continue
		}
		if err := image.Check(t.Context(), proc.Host{}, out, io.Discard); err != nil {
			t.Errorf("%d MiB free: %v", free, err)
		}
	}
}

func TestFailedPackLeavesNothing(t *testing.T) {
	needTools(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o := image.Options{Name: "t", FreeMB: 10, UUIDs: image.UUIDsOf("t"), Epoch: 1}
	if err := image.Pack(ctx, proc.Host{}, tree(t), filepath.Join(dir, "x"), o); !errors.Is(err, context.Canceled) {
		t.Errorf("Pack = %v, want context.Canceled", err)
	}
	full := &proc.ExitError{Argv: []string{"sfdisk"}, Code: 1, Stderr: "write: No space left on device\n"}
	path, err := proc.Find("sfdisk")
	if err != nil {
		t.Fatal(err)
	}
	r := failing{want: path, err: full}
	if err := image.Pack(t.Context(), r, tree(t), filepath.Join(dir, "x"), o); !errors.Is(err, full) {
		t.Errorf("Pack = %v, want the error of sfdisk", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%s is left, want nothing", left[0].Name())
	}
}

// failing is a Runner whose one program fails: temporary file names keep
// proctest.Script from naming the whole line.
type failing struct {
	want string
	err  error
}

func (f failing) Run(_ context.Context, c proc.Cmd) error {
	if c.Argv[0] != f.want {
		return errors.New("unexpected " + strings.Join(c.Argv, " "))
	}
	return f.err
}

func TestCheckFindsDamage(t *testing.T) {
	needTools(t)
	out := filepath.Join(t.TempDir(), "x.qcow2")
	o := image.Options{Name: "t", FreeMB: 10, UUIDs: image.UUIDsOf("t"), Epoch: 1}
	if err := image.Pack(t.Context(), proc.Host{}, tree(t), out, o); err != nil {
		t.Fatal(err)
	}
	overwrite := func(offset int64) func(string) error {
		return func(file string) error {
			f, err := os.OpenFile(file, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(bytes.Repeat([]byte{0xff}, 4096), offset)
			return errors.Join(err, f.Close())
		}
	}
	for said, damage := range map[string]func(string) error{
		"superblock could not be read": overwrite(2<<20 + 1024 + 0x20),
		"Leaked cluster":               overwrite(0x40000), // the L2 table
		"Entry 'bin' in / (2) has deleted/unused inode": func(file string) error {
			return exec.Command("debugfs", "-w", "-R", "clri /bin", file+"?offset=2097152").Run()
		},
	} {
		damaged := filepath.Join(t.TempDir(), "damaged.qcow2")
		content, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(damaged, content, 0o644), damage(damaged)); err != nil {
			t.Fatal(err)
		}
		log := &ui.Tail{}
		err = image.Check(t.Context(), proc.Host{}, damaged, log)
		if err == nil || !strings.Contains(err.Error(), said) || !strings.Contains(log.String(), said) || len(hint.Of(err)) != 1 {
			t.Errorf("Check = %v, hints %q, want %q and a hint; the log has\n%s", err, hint.Of(err), said, log)
		}
	}
}

func TestInUseSeesQemusLocks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	if used, err := image.InUse(file); used || err != nil {
		t.Errorf("InUse of no file = %v, %v, want false", used, err)
	}
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if used, err := image.InUse(file); used || err != nil {
		t.Errorf("InUse of a free file = %v, %v, want false", used, err)
	}
	// As QEMU 7.2 does for a disk that it may write (shared lock on one byte).
	lock := unix.Flock_t{Type: unix.F_RDLCK, Start: 100, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		t.Fatal(err)
	}
	if used, err := image.InUse(file); !used || err != nil {
		t.Errorf("InUse of a locked file = %v, %v, want true", used, err)
	}
}

// An image that may not be looked at is no free one: libvirt gives it to QEMU's user.
func TestImageOfAnotherUserIsTaken(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "x")
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.WriteFile(file, nil, 0o600), os.Chown(file, 12345, 12345)); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // which alone opens files as nobody
	defer runtime.UnlockOSThread()
	if err := unix.Setfsuid(65534); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setfsuid(0) }()
	for name, ask := range map[string]func(string) (bool, error){"InUse": image.InUse, "IsWritten": image.IsWritten} {
		if used, err := ask(file); used || !errors.Is(err, image.ErrTaken) || errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s = %v, %v, want ErrTaken", name, used, err)
		}
	}
}

func TestMissingToolIsNamed(t *testing.T) {
	t.Setenv("PATH", "")
	r := proctest.Script(t)
	if _, err := proc.Find("qemu-img"); err == nil {
		t.Skip("qemu-img is in a system folder")
	}
	if err := image.Check(t.Context(), r, "x", io.Discard); !errors.Is(err, proc.ErrNotFound) || !strings.Contains(err.Error(), "qemu-img") {
		t.Errorf("Check = %v, want ErrNotFound naming qemu-img", err)
	}
}
