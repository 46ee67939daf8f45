package main

import (
	"context"
	"errors"
	"io"
	"os"

	"meros/internal/proc"
	"meros/internal/session"
	"meros/internal/ui"
)

// keptRuns is how many earlier detached runs' logs are kept beside the last.
const keptRuns = 3

// maxReport bounds what is shown of a detached run that failed, in bytes.
const maxReport = 64 << 10

// detach runs the same call once more, in the background.
func detach(ctx context.Context, e *env, o runOptions) error {
	name := "run-" + o.fullID
	if err := e.Paths.SetLogAside(name, keptRuns); err != nil {
		return err
	}
	log, err := e.Paths.OpenLog(name)
	if err != nil {
		return err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	argv := []string{self, "--root", e.Paths.Root, "run", o.fullID, "--detached", "--display", o.display}
	for flag, set := range map[string]bool{"--no-master": o.noMaster, "--disposable": o.disposable} {
		if set {
			argv = append(argv, flag)
		}
	}
	if o.border != "" {
		argv = append(argv, "--border", o.border)
	}
	for _, words := range o.allow {
		argv = append(argv, "--allow", words)
	}
	for _, setting := range o.env {
		argv = append(argv, "--env", setting)
	}
	argv = append(append(argv, "--"), o.argv...)
	_, err = proc.Detach(ctx, proc.Cmd{Argv: argv, Stdout: log, Stderr: log})
	exit, failed := errors.AsType[*proc.ExitError](err)
	if !failed {
		return err
	}
	words, err := io.ReadAll(io.NewSectionReader(log, 0, maxReport))
	if err != nil {
		return err
	}
	if _, err := io.WriteString(e.Err, ui.Clean(string(words))); err != nil { // the other process's own report
		return err
	}
	return &session.ExitError{Code: exit.Code}
}
