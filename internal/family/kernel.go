package family

import (
	"regexp"
	"strings"
)

// Prebuilt is a kernel that somebody else has built. All fields are "" where the
// recipe names none.
type Prebuilt struct {
	URL                     string // of a kernel's file, or of a .deb that holds one
	Package                 string `json:",omitempty"` // of the target's distribution, instead of URL
	SHA256                  string // of what URL or Package brings; a package may go without
	InitrdURL, InitrdSHA256 string // "" where the kernel needs none, or is a package
}

// PackagedKernel reports whether the kernel comes out of a package that is laid into
// the target's rootfs with its modules.
func (t *Target) PackagedKernel() bool {
	return t.Kernel == KernelDistro || t.Kernel == KernelPrebuilt && (t.Prebuilt.Package != "" || t.KernelDeb())
}

// KernelDeb reports whether that package is a .deb of no suite. Without a rootfs of
// Debian's kind only the kernel is taken out of one.
func (t *Target) KernelDeb() bool {
	return t.Kernel == KernelPrebuilt && strings.HasSuffix(t.Prebuilt.URL, ".deb") && t.Rootfs && t.Distro != distroAlpine
}

// OwnKernel reports whether the kernel lies beside the image without being of the
// rootfs: built by meros, or downloaded.
func (t *Target) OwnKernel() bool {
	return t.Kernel == KernelSource || t.Kernel == KernelPrebuilt && !t.PackagedKernel()
}

var sumForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// prebuilt reads <kernel>, which says where a prebuilt kernel is.
func (b *buildFile) prebuilt(n *node) {
	if n == nil {
		b.noPrebuilt()
		return
	}
	p := &b.target.Prebuilt
	sum := match(sumForm, "must be a sha256 of 64 hexadecimal digits")
	take(b, n, "url", &p.URL, mirror)
	take(b, n, "sha256", &p.SHA256, sum)
	take(b, n, "initrd", &p.InitrdURL, mirror)
	take(b, n, "initrd_sha256", &p.InitrdSHA256, sum)
	take(b, n, "package", &p.Package, packageName(b.target.Distro))
	has := func(name string) bool { _, ok := n.attr(name); return ok }
	for _, pair := range [][2]string{{"url", "sha256"}, {"initrd", "initrd_sha256"}} {
		if has(pair[0]) != has(pair[1]) && !(pair[0] == "url" && has("package")) {
			b.file.fault(n.line, "kernel", "%s and %s go together: what is downloaded is verified", pair[0], pair[1])
		}
	}
	switch {
	case has("package"):
		b.kernelPackage(n, has)
	case !has("url"):
		b.file.fault(n.line, "kernel", "url is missing, or package")
	}
	if b.target.Kernel != KernelPrebuilt {
		b.file.fault(n.line, "kernel", `is for kernel="prebuilt" in <build> only`)
	}
}

// noPrebuilt faults a target that wants a prebuilt kernel and names none.
func (b *buildFile) noPrebuilt() {
	if b.target.Kernel != KernelPrebuilt {
		return
	}
	a, _ := b.elements["build"].attr("kernel")
	b.file.fault(a.line, "build: kernel", `prebuilt is named by <kernel url="…" sha256="…" /> or <kernel package="…" />, and there is none`)
}

// kernelPackage faults what does not go with a package.
func (b *buildFile) kernelPackage(n *node, has func(string) bool) {
	switch {
	case has("url"), has("initrd"):
		b.file.fault(n.line, "kernel", "package stands alone: neither url nor initrd, which is made for the target, goes with it")
	case b.target.Distro == distroAlpine:
		b.file.fault(n.line, "kernel", `package is a .deb, and the target is Alpine: write kernel="distro"`)
	case !b.target.Rootfs:
		b.file.fault(n.line, "kernel", "package is unpacked into the rootfs, and none is built")
	}
}
