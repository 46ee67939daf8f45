package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"meros/internal/family"
	"meros/internal/proc"
	"meros/internal/session"
)

func addMasterFlag(cmd *cobra.Command, noMaster *bool) {
	cmd.Flags().BoolVar(noMaster, "no-master", false, "use no connection that was left open, and leave none")
}

// dialTarget opens a connection to a target, by way of its master unless told
// not to.
func dialTarget(ctx context.Context, e *env, t *family.Target, noMaster bool) (*session.Conn, error) {
	if noMaster {
		return session.Dial(ctx, e.Paths, t)
	}
	return session.DialShared(ctx, e.Paths, t, e.Getenv, func(t *family.Target, tcp *os.File) (string, error) {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		argv := []string{self, "--root", e.Paths.Root, "master", t.FullID()}
		// One that is on its way serves the next call, whatever ends this one.
		return proc.Detach(context.WithoutCancel(ctx), proc.Cmd{Argv: argv, Dir: "/", ExtraFiles: []*os.File{tcp}})
	})
}

// newMasterCmd is what exec and the like start in the background: it holds a
// connection to a target open for the calls that follow. It gets the network
// connection as descriptor 4 and reports on descriptor 3.
func newMasterCmd(e *env) *cobra.Command {
	var idle time.Duration
	cmd := &cobra.Command{
		Use:    "master FULLID",
		Short:  "Hold a connection to a target open (started by other commands)",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := findTarget(e, args[0])
			if err != nil {
				return err
			}
			report := reporter()
			tcp, err := inheritedConn(4)
			if err != nil {
				return usage(fmt.Errorf("master: other commands start it: %w", err))
			}
			return session.Master(cmd.Context(), e.Paths, t, e.Getenv, tcp, session.MasterTimes{Idle: idle}, report)
		},
	}
	cmd.Flags().DurationVar(&idle, "idle", session.MasterIdle, "how long to stay when nobody uses it")
	return cmd
}

// reporter says a word to the process that started this one by proc.Detach, once.
// Nothing that this process starts keeps that one waiting.
func reporter() func(word string) {
	syscall.CloseOnExec(3)
	return func(word string) {
		report := os.NewFile(3, "report")
		fmt.Fprintln(report, word)
		_ = report.Close()
	}
}

func inheritedConn(fd uintptr) (net.Conn, error) {
	f := os.NewFile(fd, "connection")
	defer f.Close()
	return net.FileConn(f)
}

// endMasters ends the masters of targets that were shut down: a guest whose power
// was cut says no good-bye.
func endMasters(ctx context.Context, e *env, which func(fullID string) bool) error {
	return session.EndMasters(ctx, e.Paths, e.Getenv, which)
}
