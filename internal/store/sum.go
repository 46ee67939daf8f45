package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// chunk is how much of a file is read at a time, in bytes.
const chunk = 256 << 10

var zeros [chunk]byte

// fileState tells whether a file is as it was when it was read.
type fileState struct {
	dev, ino            uint64
	size, mtime, change int64
}

// sums of the files that this process has read: "meros info --watch" asks every two
// seconds for those of the same ones.
var sums sync.Map // fileState: string

// settled is how long ago a file has to have changed for its sum to be kept. The
// kernel's clock for files ticks every 10 ms at the most: a later change shows.
const settled = time.Second

// hashFile returns a sum of a file's content. It says the same of a hole as of the
// zeros that are read from it, and does not read holes.
func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	state := fileState{st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
	if sum, ok := sums.Load(state); ok {
		return sum.(string), nil
	}
	sum, err := hashData(f)
	if err == nil && time.Since(time.Unix(st.Ctim.Unix())) > settled {
		sums.Store(state, sum)
	}
	return sum, err
}

// hashData hashes those chunks of a file that are not all zeros, with where they are.
func hashData(f *os.File) (string, error) {
	h := sha256.New()
	buf := make([]byte, chunk)
	for at := int64(0); ; at += chunk {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but a hole, or the end
			break
		}
		if err == nil {
			at = data - data%chunk
		}
		n, err := f.ReadAt(buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		if !bytes.Equal(buf[:n], zeros[:n]) {
			fmt.Fprintf(h, "%d %d\n", at, n)
			h.Write(buf[:n])
		}
		if n < chunk {
			break
		}
	}
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	fmt.Fprintf(h, "%d\n", info.Size())
	return hex.EncodeToString(h.Sum(nil)), nil
}
