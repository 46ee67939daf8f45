package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"meros/internal/hint"
)

// Format is the form of an image, in qemu-img's words; ISO and OVA are not its.
type Format string

// The formats that can be brought.
const (
	Raw   Format = "raw"
	Qcow2 Format = "qcow2"
	VMDK  Format = "vmdk"
	VDI   Format = "vdi"
	VHDX  Format = "vhdx"
	OVA   Format = "ova"
	ISO   Format = "iso"
)

// Formats are all of them.
var Formats = []Format{Raw, Qcow2, VMDK, VDI, VHDX, OVA, ISO}

// magics tell the formats. A hybrid ISO begins as a disk does and is an ISO.
var magics = []struct {
	at     int64
	bytes  string
	format Format
}{
	{0, "QFI\xfb", Qcow2},
	{0, "KDMV", VMDK},                       // VMware's Virtual Disk Format, 1.1
	{0, "vhdxfile", VHDX},                   // MS-VHDX, 2.2.1
	{0x40, "\x7f\x10\xda\xbe", VDI},         // QEMU's block/vdi.c
	{0x101, "ustar", OVA},                   // tar(5)
	{0x8001, "CD001", ISO},                  // ECMA-119, 8.4
	{0, "COWD", "COWD"},                     // VMware's older form
	{0, "# Disk DescriptorFile", "listing"}, // names other files
	{0, "conectix", "vhd"},
}

// formatOf tells the format by content. Raw has no mark of its own: it is taken
// where the person says so, or where there is a boot sector.
func formatOf(f *os.File, size int64, asked Format) (Format, error) {
	found := Format("")
	for _, m := range magics {
		buf := make([]byte, len(m.bytes))
		if _, err := f.ReadAt(buf, m.at); err == nil && string(buf) == m.bytes {
			found = m.format
			break
		}
	}
	switch {
	case found == "COWD" || found == "listing":
		return "", refuse("a form of VMDK that names other files")
	case asked != "" && asked != found && asked != Raw:
		return "", fmt.Errorf("is no %s image", asked)
	case asked != "":
		return asked, nil
	case found == "vhd":
		return "", errors.New("is an image of a kind that is not taken: want raw, qcow2, vmdk, vdi, vhdx, ova or iso")
	case found != "":
		return found, nil
	}
	var boot [2]byte
	if _, err := f.ReadAt(boot[:], 510); err == nil && boot == [2]byte{0x55, 0xaa} && size%sectorSize == 0 {
		return Raw, nil
	}
	return "", hint.Add(errors.New("says nothing of its format, and has no boot sector"), "if it is a raw disk, say so: --format raw")
}

// refuseReferences reads in an image's header whether it names other files.
func refuseReferences(f *os.File, format Format) error {
	head := make([]byte, 512)
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, 512), head); err != nil && format != Raw {
		return fmt.Errorf("not a whole %s image: %w", format, err)
	}
	switch format {
	case Qcow2:
		return checkQcow2(head)
	case VMDK:
		return checkVMDK(f, head)
	}
	return nil // the others have no such thing, or QEMU refuses it
}

// Of QEMU's docs/interop/qcow2.txt.
const (
	featureCorrupt      = 1 << 1
	featureExternalData = 1 << 2
)

func checkQcow2(head []byte) error {
	be := binary.BigEndian
	version, backing, crypt := be.Uint32(head[4:]), be.Uint64(head[8:]), be.Uint32(head[32:])
	var features uint64
	if version >= 3 {
		features = be.Uint64(head[72:])
	}
	switch {
	case version != 2 && version != 3:
		return fmt.Errorf("is qcow2 of version %d: want 2 or 3", version)
	case backing != 0:
		return refuse("a backing file")
	case features&featureExternalData != 0:
		return refuse("its data in another file")
	case features&featureCorrupt != 0:
		return errors.New("is marked as corrupt")
	case crypt != 0:
		return errors.New("is encrypted: meros has no way to ask for its key")
	}
	return nil
}

// maxDescriptor is what QEMU reads of a VMDK's description (its block/vmdk.c).
const maxDescriptor = 20 * sectorSize

// checkVMDK reads the description within a VMDK. With a capacity of 0, QEMU takes
// the whole file for a description, which may name any other.
func checkVMDK(f *os.File, head []byte) error {
	le := binary.LittleEndian
	capacity, offset := le.Uint64(head[12:]), le.Uint64(head[28:])
	if capacity == 0 {
		return refuse("a list of other files for its content")
	}
	if offset == 0 || offset > 1<<32 {
		return nil
	}
	text := make([]byte, maxDescriptor)
	n, err := f.ReadAt(text, int64(offset)*sectorSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	text, _, _ = bytes.Cut(text[:n], []byte{0})
	if strings.Contains(string(text), "parentFileNameHint") {
		return refuse("a backing file")
	}
	return nil
}
