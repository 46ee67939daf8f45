package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"meros/internal/device"
	"meros/internal/hint"
	"meros/internal/proc"
	"meros/internal/ui"
)

// Options say what a packed image is like.
type Options struct {
	Name   string // of the partition; of the file system too, cut to 16 bytes
	FreeMB int    // MiB that statvfs(3) shows as available to an ordinary user
	UUIDs  UUIDs
	Epoch  int64 // time of the file system's making, seconds since 1970
	Latest int64 // files that are younger get this time, seconds since 1970; 0: none do

	Devices []device.Node // what sockets of the tree are in the image
}

// UUIDs are the identities in an image. Equal ones make equal images.
type UUIDs struct{ Disk, Partition, Root string }

// Pack writes the tree at root as a qcow2 image to the path out, which must not
// exist. On error nothing is left there. It has to run as the tree's root sees
// it: owners and modes are taken as they are.
func Pack(ctx context.Context, r proc.Runner, root, out string, o Options) (err error) {
	content, err := measure(root)
	if err != nil {
		return fmt.Errorf("measure %s: %w", root, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(diskFull(err, out), removeIfThere(out))
		}
	}()
	size := content.geometry(o.FreeMB)
	for range 3 {
		if err := write(ctx, r, root, out, size, o); err != nil {
			return err
		}
		short, err := freeShort(out, size, o.FreeMB)
		if err != nil || short <= 0 {
			return err
		}
		// The estimate was short: what is missing is known now.
		size.blocks += short + short/64 + 1
		if err := os.Remove(out); err != nil {
			return err
		}
	}
	return fmt.Errorf("no size found with %d MiB free", o.FreeMB)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func diskFull(err error, out string) error {
	if strings.Contains(err.Error(), "o space left") {
		return hint.Add(err, "make room on the disk of %s, or choose a smaller free_space_mb", out)
	}
	return err
}

// imageMode is for the caller's eyes only: an image holds the guest's host key.
const imageMode = 0o600

// write makes the image with the given size.
func write(ctx context.Context, r proc.Runner, root, out string, g geometry, o Options) error {
	q := newQcow2(g.diskBytes())
	f, err := os.OpenFile(out, os.O_CREATE|os.O_EXCL|os.O_RDWR, imageMode)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(q.dataOffset + q.size); err != nil {
		return err
	}
	if err := partition(ctx, r, f, q, g, o); err != nil {
		return err
	}
	if err := mkfs(ctx, r, root, out, q.dataOffset+partitionStart, g, o); err != nil {
		return err
	}
	if err := setDevices(f, q.dataOffset+partitionStart, o.Devices); err != nil {
		return err
	}
	if err := setTimes(f, q.dataOffset+partitionStart, o.Latest); err != nil {
		return err
	}
	if err := q.finish(f); err != nil {
		return fmt.Errorf("write qcow2 tables: %w", err)
	}
	return f.Close()
}

// mkfsConfig stands in for the host's mke2fs.conf(5): all that matters is on the
// command line.
const mkfsConfig = "[fs_types]\n\text4 = {\n\t}\n"

// features of the file system, named one by one so that neither
// the host's configuration nor its mke2fs's version has a say and old guest
// kernels can mount it (ext4(5)). No
// resize_inode: it would reserve blocks for growth that meta_bg allows anyway.
const features = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

func mkfs(ctx context.Context, r proc.Runner, root, out string, offset int64, g geometry, o Options) error {
	extended := []string{
		"offset=" + strconv.FormatInt(offset, 10),
		"hash_seed=" + o.UUIDs.Root,
		"root_owner=0:0",
		// The file is fresh, so its holes read as zeros: nothing to write now, and
		// nothing for the guest to initialise later (mke2fs(8)).
		"assume_storage_prezeroed=1",
		"nodiscard",
	}
	argv := []string{
		"mke2fs", "-q", "-F", "-t", "ext4", "-T", "ext4", "-b", strconv.Itoa(blockSize), "-I", strconv.Itoa(inodeSize),
		"-N", strconv.FormatInt(g.inodes, 10), "-m", "0", "-J", "size=" + strconv.FormatInt(g.journalMB, 10),
		"-L", cut(o.Name, 16), "-U", o.UUIDs.Root, "-O", features, "-E", strings.Join(extended, ","),
		"-d", root, out, strconv.FormatInt(g.blocks, 10),
	}
	config, err := nameless([]byte(mkfsConfig), 0)
	if err != nil {
		return err
	}
	defer config.Close()
	env := append(os.Environ(), "SOURCE_DATE_EPOCH="+strconv.FormatInt(o.Epoch, 10), "E2FSPROGS_FAKE_TIME="+strconv.FormatInt(o.Epoch, 10), "MKE2FS_CONFIG="+firstExtra)
	if err := runTool(ctx, r, proc.Cmd{Argv: argv, Env: env, ExtraFiles: []*os.File{config}}); err != nil {
		return fmt.Errorf("make the file system: %w", err)
	}
	return nil
}

func cut(s string, n int) string { return s[:min(len(s), n)] }

// partition writes the GPT: made by sfdisk on an empty disk of the same size,
// of which only the tables are copied.
func partition(ctx context.Context, r proc.Runner, f *os.File, q *qcow2, g geometry, o Options) error {
	table, err := nameless(nil, q.size)
	if err != nil {
		return err
	}
	defer table.Close()
	script := fmt.Sprintf("label: gpt\nlabel-id: %s\nstart=%d, size=%d, type=L, uuid=%s, name=\"%s\"\n",
		o.UUIDs.Disk, partitionStart/sectorSize, g.blocks*blockSize/sectorSize, o.UUIDs.Partition, cut(o.Name, 36))
	err = runTool(ctx, r, proc.Cmd{
		Argv:  []string{"sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", firstExtra},
		Stdin: strings.NewReader(script), ExtraFiles: []*os.File{table},
	})
	if err != nil {
		return fmt.Errorf("partition: %w", err)
	}
	for _, at := range []int64{0, q.size - backupGPT} {
		buf := make([]byte, backupGPT)
		if _, err := table.ReadAt(buf, at); err != nil {
			return err
		}
		if _, err := f.WriteAt(buf, q.dataOffset+at); err != nil {
			return err
		}
	}
	return nil
}

// firstExtra is how a program finds the first of its ExtraFiles (proc(5)).
const firstExtra = "/proc/self/fd/3"

// nameless returns a temporary file that has no name any more, so that nothing
// can be left of it, however this process ends.
func nameless(content []byte, size int64) (*os.File, error) {
	f, err := os.CreateTemp("", "meros-")
	if err != nil {
		return nil, err
	}
	_, err = f.Write(content)
	if size > 0 {
		err = errors.Join(err, f.Truncate(size))
	}
	if err = errors.Join(err, os.Remove(f.Name())); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// saidLines is how many of the last lines that a program printed are told when it fails.
const saidLines = 20

// runTool runs a program of the host whose output matters only if it fails.
func runTool(ctx context.Context, r proc.Runner, c proc.Cmd) error {
	path, err := proc.Find(c.Argv[0])
	if err != nil {
		return hint.Add(err, "install it, or run ./dist-conf.sh")
	}
	c.Argv[0] = path
	printed := &ui.Tail{}
	if c.Stdout == nil {
		c.Stdout = io.Discard
	}
	c.Stdout = io.MultiWriter(c.Stdout, printed)
	if err = r.Run(ctx, c); err == nil {
		return nil
	}
	for _, line := range ui.LastLines(printed.String(), saidLines) {
		err = fmt.Errorf("%w\n    %s", err, ui.Clean(line))
	}
	return err
}

// Check reads the whole image and reports damage: of the qcow2 file by qemu-img
// and of the file system by e2fsck, both without changing anything. What they print
// goes to log.
func Check(ctx context.Context, r proc.Runner, path string, log io.Writer) error {
	check := func(what string, argv ...string) error {
		err := runTool(ctx, r, proc.Cmd{Argv: argv, Stdout: log, Stderr: log})
		if err == nil {
			return nil
		}
		err = fmt.Errorf("check %s: %w", what, err)
		if _, ran := errors.AsType[*proc.ExitError](err); ran {
			err = hint.Add(err, "build again; if that ends the same way, this host's disk or memory may be failing: see dmesg")
		}
		return err
	}
	if err := check(path, "qemu-img", "check", "-q", path); err != nil {
		return err
	}
	q, err := readHeader(path)
	if err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	return check("the file system in "+path, "e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", path, q.dataOffset+partitionStart))
}
