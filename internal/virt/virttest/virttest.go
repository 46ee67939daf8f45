// Package virttest has guests for tests that are up in a second: a boot sector
// instead of an operating system.
package virttest

import "strings"

// Guest is a disk, 1 MiB, whose boot sector prints ! on the first serial line
// and then does what it is told there: w writes the sector behind its own and
// answers W, q powers off as ACPI would (PIIX4 and ICH9 under SeaBIOS: port 604h),
// and everything else is echoed.
func Guest() []byte {
	disk := make([]byte, 1<<20)
	copy(disk, bootSector)
	disk[510], disk[511] = 0x55, 0xaa
	return disk
}

const bootSector = "" +
	"\x31\xc0\x8e\xd8\x8e\xc0" + //           xor ax,ax; mov ds,ax; mov es,ax
	"\xba\xf8\x03\xb0!\xee" + //              mov dx,3f8h; mov al,'!'; out dx,al
	"\xba\xfd\x03" + //                      0c: mov dx,3fdh
	"\xec\xa8\x01\x74\xfb" + //              0f: in al,dx; test al,1; jz 0f
	"\xba\xf8\x03\xec" + //                    mov dx,3f8h; in al,dx
	"\x3cw\x74\x07\x3cq\x74\x18" + //           cmp al,'w'; je 23; cmp al,'q'; je 38
	"\xee\xeb\xe9" + //                      20: out dx,al; jmp 0c
	"\xb8\x01\x03\xb9\x02\x00" + //          23: mov ax,301h; mov cx,2
	"\xba\x80\x00\xbb\x00\x7c\xcd\x13" + //      mov dx,80h; mov bx,7c00h; int 13h
	"\xba\xf8\x03\xb0W\xeb\xe8" + //            mov dx,3f8h; mov al,'W'; jmp 20
	"\xba\x04\x06\xb8\x00\x20\xef\xeb\xf7" //   38: mov dx,604h; mov ax,2000h; out dx,ax; jmp 38

// Domain is the document of such a guest, on no network.
const Domain = `<domain type="qemu"><memory unit="MiB">32</memory><os><type arch="x86_64" machine="q35">hvm</type></os>
	<features><acpi/></features>
	<devices><disk type="file" device="disk"><source file="$TARGET_ROOTFS_IMG"/><target dev="vda" bus="virtio"/></disk></devices></domain>`

// OnNetwork is Domain with an interface on its family's one network.
func OnNetwork() string {
	return strings.Replace(Domain, "</devices>", `<interface type="network"><source network="$NETWORK_FULL_ID"/></interface></devices>`, 1)
}
