// Command meros builds, boots, networks and lets one into families of virtual
// machines.
//
// This package only parses the command line, wires streams, paths and the
// runner of host programs together, and turns an error into text and an exit
// status. What a command does lives below internal/.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"meros/internal/hint"
	"meros/internal/layout"
	"meros/internal/lifecycle"
	"meros/internal/netfilter"
	"meros/internal/prober"
	"meros/internal/proc"
	"meros/internal/sandbox"
	"meros/internal/ui"
)

func main() {
	if sandbox.IsInit(os.Args) {
		os.Exit(sandbox.Init(lifecycle.Steps()))
	}
	if netfilter.IsChild(os.Args) {
		os.Exit(netfilter.Child())
	}
	if prober.IsProbe(os.Args) {
		os.Exit(prober.Run(os.Stdin, os.Stdout))
	}
	if err := proc.ExtendPath(); err != nil {
		fmt.Fprintf(os.Stderr, "meros: warning: PATH stays as it is: %v\n", err)
	}
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is meros without the process around it, and returns the exit status.
func run(args []string, in io.Reader, out, errs io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	e := &env{
		Streams: &ui.Streams{In: in, Out: out, Err: errs},
		Runner:  proc.Host{},
		Getenv:  os.Getenv,
	}
	root := newRootCmd(e)
	root.SetArgs(modernArgs(args))
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	started := time.Now()
	err := root.ExecuteContext(ctx)
	status := exitStatus(ctx, err)
	report(e.Streams, err)
	e.record(started, status, err)
	return status
}

// report prints an error and its advice. A guest's own status is no error of
// meros and is not spoken of.
func report(s *ui.Streams, err error) {
	if err == nil || isGuestStatus(err) {
		return
	}
	fmt.Fprintf(s.Err, "meros: error: %s\n", ui.Clean(err.Error()))
	for _, h := range hint.Of(err) {
		fmt.Fprintf(s.Err, "meros: hint: %s\n", ui.Clean(h))
	}
}

// env is what commands work with. main fills the streams; the root command's
// flags fill the rest before a verb runs.
type env struct {
	*ui.Streams
	Runner proc.Runner
	Getenv func(string) string
	Paths  layout.Paths

	rootFlag string
	subject  string // what the journal says was done: command and first argument
}

func currentDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", hint.Add(fmt.Errorf("find the current folder: %w", err), "it is gone, or closed to you: cd to another")
	}
	return dir, nil
}

// resolve finds the root folder. Commands that need no family may go without.
func (e *env) resolve() error {
	dir, err := currentDir()
	if err != nil {
		return err
	}
	root, err := layout.FindRoot(e.rootFlag, e.Getenv, dir)
	if err != nil {
		return usage(err)
	}
	e.Paths = layout.Paths{Root: root, Owner: layout.SudoOwner(os.Geteuid(), e.Getenv)}
	return nil
}
