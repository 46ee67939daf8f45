package image

import (
	"encoding/binary"
	"fmt"
	"os"
)

// DiskBytes returns the size in bytes of the disk that the guest of a qcow2 image
// sees, out of its header (QEMU's docs/interop/qcow2.txt).
func DiskBytes(file string) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var head [32]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return 0, fmt.Errorf("read the header of %s: %w", file, err)
	}
	if string(head[:4]) != "QFI\xfb" {
		return 0, fmt.Errorf("%s is no qcow2 image", file)
	}
	return int64(binary.BigEndian.Uint64(head[24:]) &^ (1 << 63)), nil
}
