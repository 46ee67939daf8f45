package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// maxSaid bounds what Detach takes from a program, in bytes.
const maxSaid = 4 << 10

// leaveDelay is how long a program that Detach ends may take before it is killed: it
// may have a guest to leave.
const leaveDelay = 30 * time.Second

// Detach starts a program that may outlive its caller: in a session of its own,
// away from the terminal, its input the null device and its other streams those
// of c. Descriptor 3 is a pipe, c.ExtraFiles follow from 4 on. Detach returns
// what the program wrote to the pipe once the program closed it, and an
// *ExitError if the program then has ended, or ends, with nothing written. When ctx
// ends before that, so does the program, by SIGTERM.
func Detach(ctx context.Context, c Cmd) (said string, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	cmd := exec.Command(c.Argv[0], c.Argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.Dir, c.Env, c.Stdout, c.Stderr
	cmd.ExtraFiles = append([]*os.File{w}, c.ExtraFiles...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return "", fmt.Errorf("%s: %w", c.Argv[0], unwrapStart(err))
	}
	gone := make(chan struct{})
	defer close(gone)
	stop := context.AfterFunc(ctx, func() { endSession(cmd.Process.Pid, gone) })
	words, err := io.ReadAll(io.LimitReader(r, maxSaid))
	if !stop() {
		_ = cmd.Wait()
		return "", context.Cause(ctx)
	}
	if err != nil || len(words) > 0 {
		return string(words), errors.Join(err, cmd.Process.Release())
	}
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return "", &ExitError{Argv: c.Argv, Code: exit.ExitCode()}
	}
	if err == nil {
		err = fmt.Errorf("%s: ended without a word", c.Argv[0])
	}
	return "", err
}

// endSession ends the session of a program, which is gone once it is waited for.
func endSession(pid int, gone <-chan struct{}) {
	_ = syscall.Kill(-pid, syscall.SIGTERM)
	select {
	case <-gone:
	case <-time.After(leaveDelay):
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
}
