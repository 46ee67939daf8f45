package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"meros/internal/kernel"
)

func newKernelBuildCmd(e *env) *cobra.Command {
	var o kernel.Options
	cmd := &cobra.Command{
		Use:   "kernel-build",
		Short: "Fetch and build the guests' kernel (--kernel-build)",
		Long: `Get the source of the kernel that conf/kernel/kernel.conf names, verify it,
configure it from the fragments in conf/kernel/, and compile it: one file without
modules, for guests that need no initrd. The result is data/images/bzImage-VERSION,
and data/images/bzImage points to it; for arm64 both are called Image. An unchanged source and configuration is not
built again; a build that was broken off goes on where it was. Needs no root.

Where the network does not reach kernel.org, --source distro takes the source
that this host's distribution packages. --tag takes another tag of the repository
that kernel.conf names, if one of the signers that it names has signed it, or if
--commit says what it points to.
`,
		Example: `  meros kernel-build
  meros kernel-build --source distro
  meros kernel-build --tag v6.1.160
  meros kernel-build --source ~/linux-6.1.159.tar.xz --with desktop`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return kernelBuild(cmd.Context(), e, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Source, "source", "", "where the source comes from: distro, a folder, a tarball, or the URL of a tarball or git repository (default: kernel.conf's)")
	flags.StringVar(&o.SHA256, "sha256", "", "sum of the tarball that --source names")
	flags.StringVar(&o.Tag, "tag", "", "tag of the git repository that --source names, else of kernel.conf's (default: kernel.conf's)")
	flags.StringVar(&o.Commit, "commit", "", "commit that the tag must point to, where no signature tells")
	flags.StringSliceVar(&o.With, "with", nil, "fragments of conf/kernel/ beside those of kernel.conf")
	flags.StringVar(&o.Arch, "arch", "", "architecture: x86_64 or arm64 (default: the host's)")
	flags.IntVarP(&o.Jobs, "jobs", "j", 0, "files compiled at a time (default: one more than there are processors)")
	flags.BoolVar(&o.NoWait, "no-wait", false, "fail if another meros builds a kernel")
	flags.BoolVar(&o.Anew, "anew", false, "compile all of it again")
	return cmd
}

func kernelBuild(ctx context.Context, e *env, o kernel.Options) error {
	if o.Jobs < 0 {
		return usage(errors.New("--jobs takes a number above 0"))
	}
	if err := o.Check(); err != nil {
		return usage(err)
	}
	if err := e.resolve(); err != nil {
		return err
	}
	if err := kernel.Known(e.Paths.KernelConf(), o.With); err != nil {
		return usage(fmt.Errorf("--with: %w", err))
	}
	_, err := kernel.Builder{Streams: e.Streams, Runner: e.Runner, Paths: e.Paths}.Build(ctx, o)
	return err
}
