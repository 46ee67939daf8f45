package image

import (
	"crypto/sha256"
	"fmt"
)

// UUIDsOf returns the identities of the image of that name: always the same
// for one name, different for every other (RFC 9562, version 8).
func UUIDsOf(name string) UUIDs {
	return UUIDs{Disk: uuid(name, "disk"), Partition: uuid(name, "partition"), Root: uuid(name, "root")}
}

func uuid(name, part string) string {
	b := sha256.Sum256([]byte("meros " + part + " of " + name))
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
