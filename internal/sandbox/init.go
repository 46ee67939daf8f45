package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"meros/internal/proc"
)

// Step is the body of a step. root is the tree it works on.
type Step func(ctx context.Context, r proc.Runner, root string, args json.RawMessage) error

// Bind makes a Step of a function with typed arguments.
func Bind[T any](f func(ctx context.Context, r proc.Runner, root string, args T) error) Step {
	return func(ctx context.Context, r proc.Runner, root string, raw json.RawMessage) error {
		var args T
		if err := json.Unmarshal(raw, &args); err != nil {
			return fmt.Errorf("arguments: %w", err)
		}
		return f(ctx, r, root, args)
	}
}

// IsInit reports whether this process was started by Run.
func IsInit(argv []string) bool { return len(argv) > 1 && argv[1] == initName }

// Init is the first process of a sandbox: it lays the tree, runs the step that
// Run asked for, tells its outcome and returns the exit status.
func Init(steps map[string]Step) int {
	if len(os.Args) > 2 && os.Args[2] == waitWord {
		becomeRoot()
	}
	result := os.NewFile(resultFD, "result")
	// Programs of the step must not hold these open.
	unix.CloseOnExec(specFD)
	unix.CloseOnExec(resultFD)
	err := serve(steps)
	if encodeErr := json.NewEncoder(result).Encode(outcomeOf(err)); encodeErr != nil || err != nil {
		return 1
	}
	return 0
}

// becomeRoot waits until ids are mapped and starts this program anew: only an
// execve(2) as user 0 of the namespace gives its capabilities. It returns only if
// that fails, or if the parent has given up.
func becomeRoot() {
	mapped := os.NewFile(mappedFD, "mapped")
	if n, err := mapped.Read(make([]byte, 1)); n != 1 || err != nil {
		os.Exit(1)
	}
	mapped.Close()
	err := unix.Exec("/proc/self/exe", os.Args[:2], os.Environ())
	fmt.Fprintf(os.Stderr, "sandbox: start as root of the user namespace: %v\n", err)
	os.Exit(1)
}

func serve(steps map[string]Step) error {
	var s struct {
		Step string
		Args json.RawMessage
		Tree Tree
		User bool
	}
	if err := json.NewDecoder(os.NewFile(specFD, "spec")).Decode(&s); err != nil {
		return fmt.Errorf("sandbox: read the step: %w", err)
	}
	if s.Step == removeStep {
		return Bind(func(_ context.Context, _ proc.Runner, _ string, path string) error { return removeTree(path) })(nil, nil, "", s.Args)
	}
	step, ok := steps[s.Step]
	if !ok {
		return fmt.Errorf("sandbox: no step %q", s.Step)
	}
	if err := isolate(); err != nil {
		return err
	}
	if err := s.Tree.mount(s.User); err != nil {
		return err
	}
	return step(context.Background(), proc.Host{}, s.Tree.Root, s.Args)
}

// isolate cuts the mount namespace off from its parent's and shows the new PID
// namespace's processes in /proc.
func isolate() error {
	// An execve(2) may have cleared what proc set.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("sandbox: die with the parent: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("sandbox: make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("sandbox: mount /proc: %w", err)
	}
	unix.Umask(0o022)
	return nil
}

// bind lays Upper alone, for programs of a step that are nobody's: apt gets packages
// as _apt, which cannot pass the closed folder that Upper may lie in.
func (t Tree) bind() error {
	if t.Upper == "" {
		return nil
	}
	if err := unix.Mount(t.Upper, t.Root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("sandbox: mount %s at %s: %w", t.Upper, t.Root, err)
	}
	return nil
}

// mount lays the overlay. In a user namespace it keeps its marks in attributes
// that an ordinary user may write (overlayfs's documentation, "user xattr").
func (t Tree) mount(userNS bool) error {
	if len(t.Lower) == 0 {
		return t.bind()
	}
	for _, dir := range append([]string{t.Upper, t.Work}, t.Lower...) {
		if strings.ContainsAny(dir, `,:\`) {
			return fmt.Errorf("sandbox: overlay on %s: the path has one of , : \\ in it, which mount cannot take", dir)
		}
	}
	// In the option the topmost folder stands first.
	var lower []string
	for i := len(t.Lower) - 1; i >= 0; i-- {
		lower = append(lower, t.Lower[i])
	}
	options := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + t.Upper + ",workdir=" + t.Work
	if userNS {
		options += ",userxattr"
	}
	if err := unix.Mount("overlay", t.Root, "overlay", 0, options); err != nil {
		return fmt.Errorf("sandbox: mount an overlay at %s: %w", t.Root, err)
	}
	return nil
}
