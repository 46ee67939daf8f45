package virt

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"meros/internal/proc"
)

// The trial guest has to pass on a processor that keeps its promises, or no KVM
// would ever be used. QEMU's emulation is such a one.
func TestTrialGuestUnderTCG(t *testing.T) {
	const qemu = "qemu-system-x86_64"
	if _, err := proc.Find(qemu); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	disk, out := filepath.Join(dir, "disk"), filepath.Join(dir, "out")
	if err := os.WriteFile(disk, bootSector(), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	go func() {
		defer cancel()
		for ctx.Err() == nil {
			if said, _ := os.ReadFile(out); bytes.HasSuffix(said, []byte("D")) {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	_ = proc.Host{}.Run(ctx, proc.Cmd{Argv: []string{
		qemu, "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none", "-no-reboot",
		"-debugcon", "file:" + out, "-drive", "format=raw,file=" + disk,
	}})
	said, err := os.ReadFile(out)
	if !bytes.HasSuffix(said, []byte(guestSays)) {
		t.Errorf("the trial guest said %q, %v, want %q", said, err, guestSays)
	}
}

// bootSector copies the trial guest from behind itself to guestEntry.
func bootSector() []byte {
	loader := []byte{
		0xfa,                   // cli
		0x31, 0xc0, 0x8e, 0xd8, // xor ax,ax; mov ds,ax
		0x8e, 0xc0, 0xfc, // mov es,ax; cld
		0xbe, 0x18, 0x7c, // mov si,0x7c18
		0xbf, 0x00, 0x10, // mov di,guestEntry
		0xb9, 0x2c, 0x01, // mov cx,300
		0xf3, 0xa4, // rep movsb
		0xea, 0x00, 0x10, 0x00, 0x00, // jmp 0:guestEntry
	}
	sector := make([]byte, 512)
	copy(sector, loader)
	copy(sector[0x18:], trialGuest)
	sector[510], sector[511] = 0x55, 0xaa
	return sector
}
