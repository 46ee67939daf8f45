package kernel

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"meros/internal/hint"
	"meros/internal/proc"
)

const (
	// treeBytes is what an unpacked source takes: 1.5 GiB for 6.1, and room for
	// newer ones.
	treeBytes = 2 << 30
	// objectBytes is what the lean configuration's objects take (0.3 GiB for 6.1).
	objectBytes = 600 << 20
)

// arch is what the kernel calls an architecture, and where its result lies.
type arch struct {
	name   string // ARCH=
	target string // of make
	image  string // below the object folder
	cross  string // CROSS_COMPILE= on other hosts
	host   bool   // this host's own
}

var arches = map[string]arch{
	"x86_64": {name: "x86_64", target: "bzImage", image: "arch/x86/boot/bzImage", cross: "x86_64-linux-gnu-"},
	"arm64":  {name: "arm64", target: "Image", image: "arch/arm64/boot/Image", cross: "aarch64-linux-gnu-"},
}

var goArch = map[string]string{"amd64": "x86_64", "arm64": "arm64"}

// HostArch is this host's architecture in the kernel's words.
func HostArch() string { return firstOf(goArch[runtime.GOARCH], runtime.GOARCH) }

func findArch(name string) (arch, error) {
	name = firstOf(name, HostArch())
	a, ok := arches[name]
	if !ok {
		return a, hint.Add(fmt.Errorf("no kernel configuration for architecture %s", name), "there is one for x86_64 and arm64")
	}
	if a.host = name == HostArch(); a.host {
		a.cross = ""
	}
	return a, nil
}

// checkTools reports all programs and headers that a build lacks.
func (b Builder) checkTools(ctx context.Context, a arch) error {
	programs := []string{"make", a.cross + "gcc", a.cross + "ld", "bc", "bison", "flex", "perl", "nice", "tar", "xz"}
	if a.name == "x86_64" {
		programs = append(programs, "lz4") // base.x86_64.config has the kernel packed by it
	}
	var missing []string
	for _, program := range programs {
		if !installed(program) {
			missing = append(missing, program)
		}
	}
	var err error
	if len(missing) > 0 {
		err = fmt.Errorf("a kernel cannot be built without %s: %w", strings.Join(missing, ", "), proc.ErrNotFound)
	} else if a.name == "x86_64" && !b.hasHeader(ctx, "libelf.h") {
		// objtool, which checks the code of this architecture, reads ELF files.
		err = fmt.Errorf("a kernel cannot be built without the headers of libelf: %w", proc.ErrNotFound)
	}
	return hint.Add(err, "sudo ./dist-conf.sh --with-kernel-build")
}

// compiler is the first line that the compiler says of its version: another one
// makes another kernel of the same source.
func (b Builder) compiler(ctx context.Context, a arch) string {
	var out strings.Builder
	if err := b.Runner.Run(ctx, proc.Cmd{Argv: []string{a.cross + "gcc", "--version"}, Stdout: &out}); err != nil {
		return "" // compiling will say what is wrong with it
	}
	line, _, _ := strings.Cut(out.String(), "\n")
	return line
}

func (b Builder) hasHeader(ctx context.Context, name string) bool {
	argv := []string{"gcc", "-E", "-include", name, "-x", "c", "/dev/null", "-o", "/dev/null"}
	return b.Runner.Run(ctx, proc.Cmd{Argv: argv}) == nil
}

// room reports a disk that has not the bytes free that something needs.
func (b Builder) room(bytes uint64, what string) error {
	if err := b.Paths.MkdirAll(b.Paths.KernelBuild(), 0o755); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(b.Paths.KernelBuild(), &st); err != nil {
		return fmt.Errorf("%s: %w", b.Paths.KernelBuild(), err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < bytes {
		return hint.Add(fmt.Errorf("no room to %s: %s has %d MiB free, want %d", what, b.Paths.KernelBuild(), free>>20, bytes>>20),
			"make room; %s itself may be deleted at any time", filepath.Dir(b.Paths.KernelBuild()))
	}
	return nil
}

// buildHint adds advice to a failed make.
func buildHint(err error, log string) error {
	exit, ok := errors.AsType[*proc.ExitError](err)
	if !ok {
		return err
	}
	text := exit.Stderr
	switch {
	case strings.Contains(text, "No space left on device"):
		return wordy(err)
	case strings.Contains(text, "Killed signal terminated"):
		return hint.Add(err, "the host ran out of memory: compile fewer files at a time with --jobs 1")
	}
	return hint.Add(err, "the compiler's own words are in %s", log)
}

// firstFault keeps of make's output the line that says what went wrong: the last
// ones only repeat that something did.
func firstFault(err error) error {
	exit, ok := errors.AsType[*proc.ExitError](err)
	if !ok {
		return err
	}
	short := &proc.ExitError{Argv: []string{"make"}, Code: exit.Code, Signal: exit.Signal, Stderr: exit.Stderr}
	for line := range strings.Lines(exit.Stderr) {
		if isFault(line) {
			short.Stderr = strings.TrimPrefix(strings.TrimSpace(line), "/bin/sh: ")
			break
		}
	}
	return short
}

// noProgram is how /bin/sh, which make runs, says that a program is missing.
var noProgram = regexp.MustCompile(`^/bin/sh: .*: (command )?not found$`)

func isFault(line string) bool {
	for _, word := range []string{"error:", "No space left", "Killed signal"} {
		if strings.Contains(line, word) {
			return true
		}
	}
	return noProgram.MatchString(strings.TrimSpace(line)) || strings.Contains(line, "*** ") && !strings.Contains(line, "Error ")
}
