package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"meros/internal/hint"
	"meros/internal/layout"
	"meros/internal/ui"
)

// journal is the name of the log of what meros did.
const journal = "meros"

// logged makes the journal tell of a command: of those that change something.
func (e *env) logged(cmd *cobra.Command) *cobra.Command {
	verb := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		_, e.subject, _ = strings.Cut(cmd.CommandPath(), " ")
		if len(args) > 0 {
			e.subject += " " + args[0]
		}
		return verb(cmd, args)
	}
	return cmd
}

// record adds a line to the journal: when, what, for whom, and how it ended. A
// guest's command line is not recorded: it may hold secrets.
func (e *env) record(started time.Time, status int, err error) {
	if e.subject == "" || e.Paths.Root == "" {
		return
	}
	outcome := "done"
	if err != nil {
		outcome = fmt.Sprintf("status %d", status)
		if !isGuestStatus(err) {
			first, _, _ := strings.Cut(err.Error(), "\n")
			outcome += ": " + ui.Clean(first)
		}
	}
	line := fmt.Sprintf("%s %s: %s (%s)\n", started.UTC().Format(time.RFC3339), ui.Clean(e.subject), outcome, time.Since(started).Round(time.Millisecond))
	// Who may not write to data/ has been told so.
	if err := e.Paths.AppendLog(journal, line); err != nil && !errors.Is(err, fs.ErrPermission) {
		e.Warn("the journal is not written: %v", err)
	}
}

func newLogCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "log [NAME]",
		Short: "Show what meros did, or one of its logs (--log)",
		Long: `Show what meros did, oldest first. With NAME, show that log instead: the output
of a build is build-FULLID, that of a family's host hooks hooks-FAMILY, of a run
--detach run-FULLID (the one before: run-FULLID.1), a guest's boot console
FULLID.console.
`,
		Example: `  meros log
  meros log build-mos_demo-box
  meros log mos_demo-box.console`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeLogs(e),
		RunE: func(_ *cobra.Command, args []string) error {
			name := journal
			if len(args) == 1 {
				name = args[0]
			}
			return showLog(e, name)
		},
	}
}

// showLog copies a log to Out. Guests and tools wrote into it, so it is cleaned
// on its way to a terminal.
func showLog(e *env, name string) error {
	if err := e.resolve(); err != nil {
		return err
	}
	if err := layout.CheckLog(name); err != nil {
		return usage(err)
	}
	f, err := os.Open(e.Paths.Log(name))
	if errors.Is(err, fs.ErrNotExist) && name == journal {
		return nil // nothing was done yet
	}
	if errors.Is(err, fs.ErrNotExist) {
		names, _ := e.Paths.Logs()
		return hint.Add(fmt.Errorf("there is no log %q", name), "there are: %s", strings.Join(names, ", "))
	}
	if err != nil {
		return err
	}
	defer f.Close()
	content, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if _, terminal := ui.Terminal(e.Out); terminal {
		content = []byte(ui.Clean(string(content)))
	}
	_, err = e.Out.Write(content)
	return err
}
