package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// killDelay is how long a program may take to clean up after SIGTERM before it
// is killed.
const killDelay = 5 * time.Second

// Cmd is one run of a program. Unset streams are the null device.
type Cmd struct {
	Argv           []string
	Dir            string
	Env            []string // nil: the caller's own environment
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	ExtraFiles     []*os.File          // the child's descriptors 3, 4, …
	Cloneflags     uintptr             // namespaces to be made for the child: clone(2)
	RootInside     bool                // with CLONE_NEWUSER: the caller is root in there, and nobody else is anybody
	Foreground     bool                // stay in the caller's process group: the program reads the terminal
	Started        func(pid int) error // called once the child runs; an error kills it
	KillNow        bool                // SIGKILL on cancel: for a namespace's first process, which takes all others with it
}

// Runner starts programs. Host is the real one; tests use proctest.Script.
type Runner interface {
	// Run returns nil on exit status 0, an error wrapping exec.ErrNotFound when the
	// program is not installed, and an *ExitError when it fails.
	Run(ctx context.Context, c Cmd) error
}

// ErrNotFound is wrapped by the error of Run when the program is not installed.
var ErrNotFound = exec.ErrNotFound

// ErrLeftBehind is wrapped by the error of Run when the program ended with status 0,
// but a process that it started still holds its output open some seconds later.
var ErrLeftBehind = errors.New("it ended well, but a process that it left behind holds its output open")

// ExitError reports that a program ran and failed.
type ExitError struct {
	Argv   []string
	Code   int            // exit status, -1 when ended by a signal
	Signal syscall.Signal // 0 unless ended by one
	Stderr string         // the last 4 KiB
}

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit status %d", e.Code)
	if e.Signal != 0 {
		how = "ended by signal " + e.Signal.String()
	}
	text := name(e.Argv) + ": " + how
	if last := lastLine(e.Stderr); last != "" {
		text += ": " + last
	}
	return text
}

func name(argv []string) string {
	if len(argv) == 0 {
		return "no program"
	}
	return argv[0]
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// Host runs programs on this host, each in a process group of its own that ends
// with the context: SIGTERM first, SIGKILL after five seconds.
type Host struct{}

// Run implements Runner.
func (Host) Run(ctx context.Context, c Cmd) error {
	if len(c.Argv) == 0 {
		return errors.New("run a program: empty argument vector")
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	tail := &tailWriter{limit: 4 << 10}
	cmd := command(ctx, c, tail)
	// The child's death signal is tied to the thread that started it
	// (prctl(2), PR_SET_PDEATHSIG), so that thread has to outlive the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", c.Argv[0], unwrapStart(err))
	}
	if c.Started != nil {
		if err := c.Started(cmd.Process.Pid); err != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			_ = cmd.Wait()
			return err
		}
	}
	return result(ctx, c, cmd.Wait(), tail)
}

func command(ctx context.Context, c Cmd, tail *tailWriter) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout = c.Dir, c.Env, c.Stdin, c.Stdout
	cmd.ExtraFiles = c.ExtraFiles
	cmd.Stderr = tail
	if c.Stderr != nil {
		cmd.Stderr = io.MultiWriter(c.Stderr, tail)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    !c.Foreground,
		Pdeathsig:  syscall.SIGKILL,
		Cloneflags: c.Cloneflags,
	}
	if c.RootInside {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	cmd.Cancel = func() error {
		sig, pid := syscall.SIGTERM, cmd.Process.Pid
		if c.KillNow {
			sig = syscall.SIGKILL
		}
		if !c.Foreground {
			pid = -pid
		}
		return syscall.Kill(pid, sig)
	}
	cmd.WaitDelay = killDelay
	return cmd
}

// unwrapStart drops exec.Error's repetition of the program's name.
func unwrapStart(err error) error {
	if e, ok := errors.AsType[*exec.Error](err); ok {
		return e.Err
	}
	return err
}

func result(ctx context.Context, c Cmd, err error, tail *tailWriter) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = ErrLeftBehind
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return fmt.Errorf("%s: %w", c.Argv[0], err)
	}
	e := &ExitError{Argv: c.Argv, Code: exit.ExitCode(), Stderr: tail.String()}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		e.Signal = ws.Signal()
	}
	return e
}

// adminDirs hold an administrator's programs. An ordinary user's PATH may lack them.
var adminDirs = []string{"/usr/local/sbin", "/usr/sbin", "/sbin"}

// ExtendPath adds the folders of an administrator's programs to PATH, for what
// meros calls, and for what that calls in turn, as debootstrap calls chroot.
func ExtendPath() error {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	for _, dir := range adminDirs {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return os.Setenv("PATH", strings.Join(dirs, string(filepath.ListSeparator)))
}

// Find returns the path of a program of the host, looked up in PATH and then where
// an administrator's programs are. The error wraps ErrNotFound.
func Find(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err == nil {
		return path, nil
	}
	for _, dir := range adminDirs {
		path := filepath.Join(dir, program)
		if info, statErr := os.Stat(path); statErr == nil && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w", program, ErrNotFound)
}

// tailWriter keeps the last limit bytes written to it.
type tailWriter struct {
	limit int
	buf   []byte
}

func (w *tailWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	if over := len(w.buf) - w.limit; over > 0 {
		w.buf = append(w.buf[:0], w.buf[over:]...)
	}
	return len(p), nil
}

func (w *tailWriter) String() string { return string(w.buf) }
