package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"meros/internal/family"
	"meros/internal/lifecycle"
	"meros/internal/session"
	"meros/internal/virt"
)

// initTimeout is room for a host without KVM: an emulated guest needs 20 to 40
// seconds, two at a time twice that.
const initTimeout = 5 * time.Minute

// knockTime bounds one attempt to open a session: an emulated guest that still
// boots needs many times the 0.6 s of an idle one.
const knockTime = 60 * time.Second

type initOptions struct {
	name    string // a family or a full id
	accel   string
	noWait  bool
	timeout time.Duration

	disposable bool
	fresh      bool // refuse a guest that runs already
	memory     size // of each guest; 0: the recipe's
	cpus       int  // of each guest; 0: the recipe's
	strict     bool
	trustHooks bool
}

func newInitCmd(e *env) *cobra.Command {
	var o initOptions
	cmd := &cobra.Command{
		Use:        "init FAMILY|FULLID",
		Short:      "Start the networks and guests of a family (--init, -i)",
		SuggestFor: []string{"start", "up", "boot"},
		Long: `Start the networks and guests of a family, or one guest and the networks it
needs, run the family's host hooks (pre-start before, post-start after), and wait
until sessions can be opened. What runs already stays. If a step fails, what this
call had started is taken down. What the hooks print: meros log hooks-FAMILY.

A disposable guest starts from its image as it is, and what it writes is gone when
it has stopped; the image is only read.
`,
		Example: `  meros init mos_demo             # the whole family
  meros init mos_demo-box         # one guest and the networks it needs
  meros init mos_demo-box --disposable
  meros init mos_demo --accel tcg --timeout 15m`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeGuests(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			if cmd.Flags().Changed("wait") {
				if o.noWait {
					return usage(errors.New("init: --wait and --no-wait exclude each other"))
				}
				wait, err := cmd.Flags().GetBool("wait")
				o.noWait = !wait
				if err != nil {
					return err
				}
			}
			return initGuests(cmd.Context(), e, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.accel, "accel", "", "what runs the guests' code: kvm, tcg or auto (default: $MEROS_ACCEL, else auto)")
	flags.Bool("wait", true, "wait until sessions can be opened")
	flags.BoolVar(&o.noWait, "no-wait", false, "return as soon as the guests run")
	flags.DurationVar(&o.timeout, "timeout", initTimeout, "how long to wait at most")
	flags.BoolVar(&o.disposable, "disposable", false, "throw away what the guests write when they stop")
	flags.Var(&o.memory, "memory", "what each guest has instead of the recipe's `memory`, such as 512M")
	flags.IntVar(&o.cpus, "cpus", 0, "how many processors each guest has instead of the recipe's number")
	flags.BoolVar(&o.strict, "strict", false, "refuse what this host cannot do, instead of adapting the recipe")
	flags.BoolVar(&o.trustHooks, "trust-hooks", false, "run host hooks that contain \"flush ruleset\"")
	completeWords(cmd, "accel", "kvm", "tcg", "auto")
	return cmd
}

func initGuests(ctx context.Context, e *env, o initOptions) error {
	accel, err := virt.ParseAccel(o.accel, e.Getenv)
	if err != nil {
		return usage(err)
	}
	want := virt.Resources{MemoryMiB: int(o.memory >> 20), CPUs: o.cpus}
	if o.memory > 0 && want.MemoryMiB == 0 || o.cpus < 0 {
		return usage(errors.New("init: --memory is 1M at least, --cpus 1"))
	}
	if err := e.resolve(); err != nil {
		return err
	}
	f, targets, err := loadGuests(e, o.name)
	if err != nil {
		return err
	}
	return guests(e).Init(ctx, f, targets, lifecycle.InitOptions{
		Accel: accel, NoWait: o.noWait, Timeout: o.timeout, Disposable: o.disposable, Fresh: o.fresh,
		Named: strings.Contains(o.name, "-"), Want: want, Strict: o.strict, TrustHooks: o.trustHooks,
	})
}

// loadGuests reads the recipe of a family, or of a full id, and returns the
// targets that are meant.
func loadGuests(e *env, name string) (*family.Family, []*family.Target, error) {
	if strings.Contains(name, "-") {
		f, t, err := family.LoadTarget(e.Paths, name)
		return f, []*family.Target{t}, err
	}
	f, err := family.Load(e.Paths, name)
	if err != nil {
		return nil, nil, err
	}
	return f, f.Targets, nil
}

// guests is what runs guests, wired to this host.
func guests(e *env) lifecycle.Guests {
	return lifecycle.Guests{
		Streams: e.Streams, Runner: e.Runner, Paths: e.Paths, Getenv: e.Getenv,
		Dial: dialLibvirt(e),
		Ready: func(ctx context.Context, t *family.Target, passed func(session.Stage)) error {
			return session.Ready(ctx, e.Paths, t, knockTime, passed)
		},
	}
}

func dialLibvirt(e *env) func(context.Context) (virt.Daemon, error) {
	return func(ctx context.Context) (virt.Daemon, error) {
		c, err := virt.Dial(ctx, virt.URI(e.Getenv))
		if err != nil {
			return nil, err
		}
		return c, nil
	}
}

// completeGuests offers families, and full ids once a dash is typed.
func completeGuests(e *env) cobra.CompletionFunc {
	families, targets := completeFamilies(e), completeTargets(e)
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if strings.Contains(typed, "-") {
			return targets(cmd, args, typed)
		}
		return families(cmd, args, typed)
	}
}
