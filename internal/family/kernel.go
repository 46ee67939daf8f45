package family

import "regexp"

// Prebuilt is a kernel that somebody else has built. All fields are "" where the
// recipe names none.
type Prebuilt struct {
	URL, SHA256             string // of a kernel's file, or of a .deb that holds one
	InitrdURL, InitrdSHA256 string // "" where the kernel needs none
}

var sumForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// prebuilt reads <kernel>, which says where a prebuilt kernel is.
func (b *buildFile) prebuilt(n *node) {
	if n == nil {
		return
	}
	p := &b.target.Prebuilt
	sum := match(sumForm, "must be a sha256 of 64 hexadecimal digits")
	take(b, n, "url", &p.URL, mirror)
	take(b, n, "sha256", &p.SHA256, sum)
	take(b, n, "initrd", &p.InitrdURL, mirror)
	take(b, n, "initrd_sha256", &p.InitrdSHA256, sum)
	for _, pair := range [][2]string{{"url", "sha256"}, {"initrd", "initrd_sha256"}} {
		_, one := n.attr(pair[0])
		_, other := n.attr(pair[1])
		if one != other {
			b.file.fault(n.line, "kernel", "%s and %s go together: what is downloaded is verified", pair[0], pair[1])
		}
	}
	if _, ok := n.attr("url"); !ok {
		b.file.fault(n.line, "kernel", "url is missing")
	}
	if b.target.Kernel != KernelPrebuilt {
		b.file.fault(n.line, "kernel", `is for kernel="prebuilt" in <build> only`)
	}
}
