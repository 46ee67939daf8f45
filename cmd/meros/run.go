package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"meros/internal/family"
	"meros/internal/session"
)

type runOptions struct {
	fullID   string
	argv     []string
	display  string
	border   string
	allow    []string
	env      []string
	detach   bool
	noMaster bool

	disposable bool // in a guest of its own, which is gone afterwards
	child      bool // the detached process itself
}

func newRunCmd(e *env) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run FULLID [flags] PROGRAM [ARG...]",
		Short: "Run a graphical program of a target on this screen (--run)",
		Long: `Run a graphical program of a target and show its windows among those of this
host, seamless, each titled "… on merOS::FULLID" and framed in the target's trust
colour. xpra shows them over the connection of meros itself. Programs of one
target share a session, and so one colour and what is allowed.

A program's windows may show themselves and take keys and pointer, nothing else.
More is allowed by --allow, or <run allow="…"/> in the recipe: clipboard-to-guest,
clipboard-to-host, audio, microphone, webcam, printing, files, urls,
notifications, dbus, tray.

With --disposable the target is started for this program alone, from its image as
it is, and when the program ends the guest and all that it wrote are gone. A target
that runs already is refused.

The exit status is the program's, 255 if the guest was not reached or the
connection was lost.
`,
		Example: `  meros run mos_demo-box xterm
  meros run mos_sec-guest --allow audio,clipboard-to-guest firefox
  meros run mos_sec-guest --disposable firefox
  meros run mos_sec-guest --detach thunar`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeTargets(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			return behindTarget(cmd, args, func(fullID string, argv []string) error {
				o.fullID, o.argv = fullID, argv
				return runProgram(cmd.Context(), e, o)
			})
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.StringVar(&o.display, "display", string(session.DisplayAuto), "how windows are shown: auto, xpra, x11, waypipe or none")
	flags.StringVar(&o.border, "border", "", "trust `colour` (default: the recipe's, else one of the target's own)")
	flags.StringSliceVar(&o.allow, "allow", nil, "what windows may do more than show themselves, `FEATURE,…`")
	flags.StringArrayVarP(&o.env, "env", "e", nil, "set a variable, `NAME=VALUE`; NAME alone takes the caller's value, if there is one")
	flags.BoolVar(&o.disposable, "disposable", false, "start a disposable guest for this program alone, and end it with the program")
	flags.BoolVarP(&o.detach, "detach", "d", false, "return once the program runs; its output goes to a log")
	addMasterFlag(cmd, &o.noMaster)
	flags.BoolVar(&o.child, "detached", false, "")
	_ = flags.MarkHidden("detached") // it is there
	completeWords(cmd, "display", "auto", "xpra", "x11", "waypipe", "none")
	return cmd
}

// check returns the wrong calls, and o with what its words mean.
func (o runOptions) check(getenv func(string) string) (session.RunOptions, error) {
	ro := session.RunOptions{Argv: o.argv, Border: o.border, Getenv: getenv}
	if len(o.argv) == 0 {
		return ro, errors.New("no program: want run FULLID PROGRAM [ARG...]")
	}
	known := false
	for _, d := range session.Displays {
		known = known || string(d) == o.display
	}
	if !known {
		return ro, fmt.Errorf("--display is auto, xpra, x11, waypipe or none, not %q", o.display)
	}
	if o.border != "" {
		if err := family.CheckBorder(o.border); err != nil {
			return ro, fmt.Errorf("--border %w", err)
		}
	}
	for _, words := range o.allow {
		features, err := family.ParseRunFeatures(words)
		if err != nil {
			return ro, fmt.Errorf("--allow %w", err)
		}
		ro.Allow = append(ro.Allow, features...)
	}
	var err error
	ro.Env, err = execOptions{env: o.env}.settings(getenv)
	return ro, err
}

func runProgram(ctx context.Context, e *env, o runOptions) error {
	ro, err := o.check(e.Getenv)
	if err != nil {
		return usage(fmt.Errorf("run: %w", err))
	}
	if o.child {
		report := reporter()
		ro.Started = func() { report("started") }
	}
	t, err := findTarget(e, o.fullID)
	if err != nil {
		return err
	}
	screen, err := session.FindScreen(ctx, e.Runner, e.Getenv, session.Display(o.display))
	if err != nil {
		return fmt.Errorf("run on %s: %w", o.fullID, err)
	}
	if o.detach {
		return detach(ctx, e, o)
	}
	if o.disposable {
		return inDisposable(ctx, e, o.fullID, func() error { return runIn(ctx, e, o, ro, screen, t) })
	}
	return runIn(ctx, e, o, ro, screen, t)
}

// runIn runs the program in a guest that is there.
func runIn(ctx context.Context, e *env, o runOptions, ro session.RunOptions, screen *session.Screen, t *family.Target) error {
	// A socket of the guest that is forwarded here needs a connection of its own.
	direct := o.noMaster || o.display == string(session.DisplayX11) || !screen.Shows(session.DisplayXpra)
	c, err := dialTarget(ctx, e, t, direct)
	if err != nil {
		return guestStatus(err)
	}
	defer c.Close()
	return guestStatus(session.Run(ctx, c, e.Paths, e.Streams, e.Runner, screen, t, ro))
}
