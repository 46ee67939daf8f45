package main

import (
	"github.com/spf13/cobra"

	"meros/internal/hint"
)

// version is set by the linker: -X main.version=…
var version = "devel"

const exitHelp = `
Exit status: 0 done, 1 failed, 2 wrong call, 3 faulty recipe, 4 host not ready,
5 no such family or target, 130 interrupted; exec and run give the guest's own,
255 if they never got there.
`

func newRootCmd(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:           "meros",
		Short:         "Build, boot and enter families of virtual machines",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&e.rootFlag, "root", "", "folder that holds conf/ and data/ (default: $MEROS_ROOT, else the nearest one)")
	flags.BoolVar(&e.Verbose, "verbose", false, "show what host programs print")
	flags.BoolVarP(&e.Quiet, "quiet", "q", false, "print no progress")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	for _, cmd := range []*cobra.Command{
		newBuildCmd(e), newInitCmd(e), newShutdownCmd(e), newShutdownAllCmd(e),
		newConnectCmd(e), newExecCmd(e), newPushCmd(e), newPullCmd(e),
	} {
		root.AddCommand(e.logged(cmd))
	}
	root.AddCommand(newInfoCmd(e), newLogCmd(e), newValidateCmd(e), newDoctorCmd(e), newManCmd())
	addExitHelp(root)
	return root
}

// addExitHelp ends every command's help with the exit statuses, and makes a
// wrong number of arguments a wrong call.
func addExitHelp(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		addExitHelp(sub)
	}
	if args := cmd.Args; args != nil {
		cmd.Args = func(cmd *cobra.Command, given []string) error {
			if err := args(cmd, given); err != nil {
				return usage(hint.Add(err, "see meros %s --help", cmd.Name()))
			}
			return nil
		}
	}
	cmd.SetUsageTemplate(cmd.UsageTemplate() + exitHelp)
}
