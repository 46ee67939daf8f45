package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"meros/internal/ui"
	"meros/internal/virt"
)

type consoleOptions struct {
	fullID string
	force  bool // end a session that is open elsewhere
}

func newConsoleCmd(e *env) *cobra.Command {
	var o consoleOptions
	cmd := &cobra.Command{
		Use:        "console FULLID",
		Short:      "Open the serial console of a running target",
		SuggestFor: []string{"serial", "tty"},
		Long: `Open the serial console of a running target, through libvirt: it works when the
guest's network or sshd does not. Ctrl-] leaves it and the guest runs on.

A serial line has no size of its own: say "resize", or stty as it is told at the
start, in the guest. Without a terminal, what is read goes to the guest, and what
it prints is written until it powers off.
`,
		Example: `  meros console mos_demo-box      # Ctrl-] leaves
  meros console mos_demo-box --force`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeTargets(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.fullID = args[0]
			return console(cmd.Context(), e, o)
		},
	}
	cmd.Flags().BoolVar(&o.force, "force", false, "end a session that is open elsewhere")
	return cmd
}

func console(ctx context.Context, e *env, o consoleOptions) error {
	if err := e.resolve(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, ui.Endings...)
	defer stop()
	d, dom, err := guests(e).Running(ctx, o.fullID)
	if err != nil {
		return err
	}
	defer d.Close()
	open := func(in io.Reader) error { return d.Console(ctx, dom, in, e.Out, o.force) }
	tty, isTerminal := ui.Terminal(e.In)
	if !isTerminal {
		err = open(e.In)
	} else {
		e.Step("console of %s: Ctrl-] leaves; Enter if nothing shows%s", o.fullID, sizeAdvice(int(tty.Fd())))
		err = ui.Raw(tty, func() error { return open(guarded{e.In}) })
		fmt.Fprintln(e.Err) // the guest left the cursor anywhere
		if err == nil {
			e.Step("left the console of %s", o.fullID)
		}
	}
	if errors.Is(err, virt.ErrPoweredOff) {
		e.Step("%s powered off", o.fullID)
		return nil
	}
	return err
}

// sizeAdvice says how the guest learns of the terminal's size.
func sizeAdvice(fd int) string {
	cols, rows, err := term.GetSize(fd)
	if err != nil || rows < 1 || cols < 1 {
		return ""
	}
	return fmt.Sprintf("; size: stty rows %d cols %d", rows, cols)
}

// guarded is read in a goroutine of the console's.
type guarded struct{ io.Reader }

// Read implements io.Reader.
func (g guarded) Read(p []byte) (int, error) {
	defer ui.Guard()
	return g.Reader.Read(p)
}
