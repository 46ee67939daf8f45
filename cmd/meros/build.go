package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"meros/internal/family"
	"meros/internal/lifecycle"
)

type buildOptions struct {
	family  string
	targets []string // none: all
	noWait  bool     // fail if another meros works on the family
	noCache bool     // do every stage anew
	refresh bool     // take the newest packages
	offline bool     // ask no mirror
	plan    bool     // say what would be done
	jobs    int      // targets at once; 0: as the host allows
	kernel  string   // where the kernel comes from; "": as the recipe says
}

func newBuildCmd(e *env) *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:   "build FAMILY [TARGET...]",
		Short: "Build the disk images of a family (--build)",
		Long: `Build the disk images of a family, or of some of its targets: bootstrap the
distribution, install packages, lay the recipe's files over it, run its hooks,
and pack a qcow2 image. A stage whose input has not changed is not done again.
The images are made in data/images/, the output of all tools in data/log/.
`,
		Example: `  meros build mos_demo            # all targets
  meros build mos_demo box        # one of them
  meros build mos_demo --plan     # only say what would be done`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeFamilyTargets(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.family, o.targets = args[0], args[1:]
			return build(cmd.Context(), e, o)
		},
	}
	cmd.Flags().BoolVar(&o.noWait, "no-wait", false, "fail if another meros works on the family")
	cmd.Flags().BoolVar(&o.plan, "plan", false, "say which stages would be done again and why, and do nothing")
	cmd.Flags().IntVarP(&o.jobs, "jobs", "j", 0, "build this many targets at once (default: two for each processor, as memory allows)")
	cmd.Flags().StringVar(&o.kernel, "kernel", "", "take the kernel from: source, distro, prebuilt or no (default: as the recipe says)")
	cmd.Flags().BoolVar(&o.noCache, "no-cache", false, "do every stage anew")
	cmd.Flags().BoolVar(&o.offline, "offline", false, "take packages and kernels only from what earlier builds downloaded")
	cmd.Flags().BoolVar(&o.refresh, "refresh", false, "take the newest packages: bootstrap anew, and all that follows")
	return cmd
}

func build(ctx context.Context, e *env, o buildOptions) error {
	if o.jobs < 0 {
		return usage(errors.New("build: --jobs takes a number above 0"))
	}
	if err := e.resolve(); err != nil {
		return err
	}
	f, err := family.Load(e.Paths, o.family)
	if err != nil {
		return err
	}
	targets, err := pick(e, f, o.targets)
	if err != nil {
		return err
	}
	if o.kernel != "" {
		if targets, err = lifecycle.SetKernel(targets, o.kernel); err != nil {
			return usage(err)
		}
	}
	b := e.builder()
	return b.Build(ctx, f, targets, lifecycle.BuildOptions{NoWait: o.noWait, NoCache: o.noCache || o.refresh, Offline: o.offline, Named: len(o.targets) > 0, Plan: o.plan, Jobs: o.jobs})
}

// pick returns the named targets of a family, by name or full id; all if none
// is named.
func pick(e *env, f *family.Family, names []string) ([]*family.Target, error) {
	if len(names) == 0 {
		return f.Targets, nil
	}
	var targets []*family.Target
	for _, name := range names {
		t := f.Target(name)
		if t == nil {
			var err error
			if _, t, err = family.LoadTarget(e.Paths, fullID(f.Name, name)); err != nil {
				return nil, err
			}
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// fullID completes a target's name with its family's, unless that stands there.
func fullID(family, name string) string {
	if strings.HasPrefix(name, family+"-") {
		return name
	}
	return family + "-" + name
}
