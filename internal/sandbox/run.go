package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"meros/internal/hint"
	"meros/internal/proc"
)

// initName is the argv[0] by which meros knows that it is to be a sandbox's
// first process.
const initName = "meros-sandbox"

// waitWord is argv[2] of a first process that has to wait until its user
// namespace has ids before it can be root in it.
const waitWord = "wait"

// Descriptors of the first process: what it is to do, what came of it, and
// where it reads an end of file once its ids are mapped.
const (
	specFD   = 3
	resultFD = 4
	mappedFD = 5
)

// Spec is one step to run.
type Spec struct {
	Step string // its name in the table of Init
	Args any    // handed to it as JSON
	Tree Tree
	Env  []string // NAME=VALUE on top of the caller's environment
	User bool     // set by Run: in a user namespace
}

// Tree is the file tree that a step works on, mounted at Root. With no Lower it is
// Upper, and with no Upper either Root itself.
type Tree struct {
	Root  string
	Lower []string // folders, the lowest first
	Upper string   // takes the changes
	Work  string   // empty folder on the file system of Upper
}

// outcome is how a step's error travels to the parent process.
type outcome struct {
	Error      string   `json:"error"`
	Hints      []string `json:"hints,omitempty"`
	NotFound   bool     `json:"notFound,omitempty"`
	Permission bool     `json:"permission,omitempty"`
}

// StepError is the error of a step, as told by the sandbox's first process.
type StepError struct {
	text  string
	cause error
}

func (e *StepError) Error() string { return e.text }
func (e *StepError) Unwrap() error { return e.cause }

// Run runs a step and waits for it. All that it and its programs print goes to
// log. Cancelling ctx kills every process of the step at once. An ordinary user's
// step runs in a user namespace too, as its root.
func Run(ctx context.Context, r proc.Runner, s Spec, log io.Writer) error {
	s.User = os.Geteuid() != 0
	spec, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	specFile, err := memFile(spec)
	if err != nil {
		return err
	}
	defer specFile.Close()
	resultRead, resultWrite, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	defer resultRead.Close()
	result := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(resultRead)
		result <- b
	}()
	c := proc.Cmd{
		Argv:       []string{"/proc/self/exe", initName},
		Env:        append(os.Environ(), s.Env...),
		Stdout:     log,
		Stderr:     log,
		ExtraFiles: []*os.File{specFile, resultWrite},
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		KillNow:    true,
	}
	runErr := runMapped(ctx, r, c, s.User)
	resultWrite.Close()
	return joinOutcome(ctx, s.Step, runErr, <-result)
}

// runMapped runs c, in a user namespace with mapped ids if asked to.
func runMapped(ctx context.Context, r proc.Runner, c proc.Cmd, userNS bool) error {
	if !userNS {
		return r.Run(ctx, c)
	}
	if err := CheckUser(); err != nil {
		return err
	}
	mappedRead, mappedWrite, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	defer mappedRead.Close()
	defer mappedWrite.Close()
	c.Argv = append(c.Argv, waitWord)
	c.ExtraFiles = append(c.ExtraFiles, mappedRead)
	c.Cloneflags |= syscall.CLONE_NEWUSER
	c.Started = func(pid int) error {
		if err := mapIDs(ctx, r, pid); err != nil {
			return err
		}
		_, err := mappedWrite.Write([]byte{1})
		return err
	}
	return r.Run(ctx, c)
}

// memFile returns b as a readable file that no other process can see.
func memFile(b []byte) (*os.File, error) {
	f, err := os.CreateTemp("", "meros-step-")
	if err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err := errors.Join(err, os.Remove(f.Name())); err != nil {
		f.Close()
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	return f, nil
}

func joinOutcome(ctx context.Context, step string, runErr error, result []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var o outcome
	if len(result) > 0 && json.Unmarshal(result, &o) == nil && o.Error != "" {
		return o.asError()
	}
	if errors.Is(runErr, syscall.EPERM) || errors.Is(runErr, syscall.ENOSPC) {
		return hint.Add(fmt.Errorf("%s: make namespaces: %w", step, runErr),
			"this host lets users make no user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone): build as root")
	}
	if runErr != nil {
		return fmt.Errorf("%s: %w", step, runErr)
	}
	return nil
}

func (o outcome) asError() error {
	e := &StepError{text: o.Error}
	switch {
	case o.NotFound:
		e.cause = proc.ErrNotFound
	case o.Permission:
		e.cause = fs.ErrPermission
	}
	var err error = e
	for i := len(o.Hints) - 1; i >= 0; i-- {
		err = hint.Add(err, "%s", o.Hints[i])
	}
	return err
}

func outcomeOf(err error) outcome {
	if err == nil {
		return outcome{}
	}
	return outcome{
		Error:      strings.TrimSpace(err.Error()),
		Hints:      hint.Of(err),
		NotFound:   errors.Is(err, proc.ErrNotFound),
		Permission: errors.Is(err, fs.ErrPermission),
	}
}
