package lifecycle

import (
	"testing"

	"meros/internal/family"
	"meros/internal/image"
)

func TestRootWords(t *testing.T) {
	target := family.Target{Family: "mos_a", Name: "b", Distro: "alpine"}
	ids := image.UUIDsOf(target.FullID())
	partition, system := "root=PARTUUID="+ids.Partition, "root=UUID="+ids.Root+" rootfstype=ext4 modules=sd-mod,ext4"
	if got := rootWords(&target, true); got != system {
		t.Errorf("for Alpine's initrd: %q, want %q", got, system)
	}
	if got := rootWords(&target, false); got != partition {
		t.Errorf("without an initrd: %q, want %q", got, partition)
	}
	target.Distro = "debian"
	if got := rootWords(&target, true); got != partition {
		t.Errorf("for Debian's initrd: %q, want %q", got, partition)
	}
}
