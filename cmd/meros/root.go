package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"meros/internal/hint"
)

// version is set by the linker: -X main.version=…
var version = "devel"

const exitHelp = `
Exit status: 0 done, 1 failed, 2 wrong call, 3 faulty recipe, 4 host not ready,
5 no such family or target, 130 interrupted; exec and run give the guest's own,
255 if they never got there, exec 124 after its --timeout.
`

func newRootCmd(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "meros",
		Short: "Build, boot and enter families of virtual machines",
		Long: `Build, boot, network and enter families of virtual machines on this host. A
family is a folder of plain files, conf/target/FAMILY/; its targets are its
machines, each named FAMILY-TARGET, the full id. What is made lands in data/.

A command may be given in the spelling in parentheses instead, first or after the
family or target: meros --build FAMILY, meros FULLID --connect.
`,
		Example: `  meros doctor                    # what this host lacks
  meros build mos_demo            # recipe to disk image
  meros init mos_demo             # start its network and its guest
  meros connect mos_demo-box      # a shell in the guest
  meros shutdown mos_demo         # all of it gone again`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		// Two letters amiss, as cobra has it for its own errors.
		SuggestionsMinimumDistance: 2,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&e.rootFlag, "root", "", "folder that holds conf/ and data/ (default: $MEROS_ROOT, else the nearest one)")
	_ = root.MarkPersistentFlagDirname("root")
	flags.BoolVar(&e.Verbose, "verbose", false, "show what host programs print")
	flags.BoolVarP(&e.Quiet, "quiet", "q", false, "print no progress")
	root.SetFlagErrorFunc(wrongFlag)
	for _, cmd := range []*cobra.Command{
		newBuildCmd(e), newKernelBuildCmd(e), newInitCmd(e), newShutdownCmd(e), newShutdownAllCmd(e),
		newConnectCmd(e), newConsoleCmd(e), newExecCmd(e), newRunCmd(e), newPushCmd(e), newPullCmd(e), newImportCmd(e),
	} {
		root.AddCommand(e.logged(cmd))
	}
	root.AddCommand(newInfoCmd(e), newSSHConfigCmd(e), newIPCmd(e), newPortsCmd(e), newKeysCmd(e), newMasterCmd(e),
		newCacheCmd(e), newLogCmd(e), newValidateCmd(e), newDoctorCmd(e), newCompletionCmd(), newManCmd())
	root.AddCommand(newNewCmd(e), newGraphCmd(e), newEventsCmd(e), newSnapshotCmd(e))
	root.AddCommand(newPolicyCmd(e), newProveCmd(e), newVerifyCmd(e), newLintCmd(e))
	help := newHelpCmd()
	root.SetHelpCommand(help)
	root.AddCommand(help)
	root.SetUsageTemplate(root.UsageTemplate() + exitHelp) // of all commands: they inherit it
	countArgs(root)
	return root
}

// countArgs makes a wrong number of arguments a wrong call, of every command.
func countArgs(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		countArgs(sub)
	}
	fit := cmd.Args
	if fit == nil {
		return
	}
	cmd.Args = func(cmd *cobra.Command, given []string) error {
		if fit(cmd, given) == nil {
			return nil
		}
		err := fmt.Errorf("%s: wrong number of arguments: %d", cmd.Name(), len(given))
		return usage(hint.Add(err, "want %s; see %s --help", cmd.Parent().CommandPath()+" "+cmd.Use, cmd.CommandPath()))
	}
}

// behindTarget calls do with a call's target and the command line for the guest. Flags
// may stand before and after the target; those behind belong to the guest's command.
func behindTarget(cmd *cobra.Command, args []string, do func(fullID string, argv []string) error) error {
	if err := cmd.Flags().Parse(args[1:]); err != nil {
		return wrongFlag(cmd, err)
	}
	if help, err := cmd.Flags().GetBool("help"); err == nil && help {
		return cmd.Help()
	}
	return do(args[0], cmd.Flags().Args())
}

// wrongFlag words the faults of flags. A word before the flag that is no command
// is the greater fault.
func wrongFlag(cmd *cobra.Command, err error) error {
	if cmd.HasParent() {
		return usage(hint.Add(fmt.Errorf("%s: %w", cmd.Name(), err), "see %s --help", cmd.CommandPath()))
	}
	if words := cmd.Flags().Args(); len(words) > 0 {
		return unknownCommand(cmd, words[0])
	}
	if flag, ok := errors.AsType[interface {
		error
		GetSpecifiedName() string
	}](err); ok {
		name := flag.GetSpecifiedName() // of one letter: near any short command
		if near := cmd.SuggestionsFor(name); len(name) > 1 && len(near) > 0 {
			word := near[0]
			if original["--"+word] != "" {
				word = "--" + word
			}
			return usage(hint.Add(err, "was %s meant? see meros --help", word))
		}
	}
	return usage(hint.Add(err, "see meros --help"))
}

func unknownCommand(cmd *cobra.Command, word string) error {
	err := fmt.Errorf("there is no command %q", word)
	if near := cmd.Root().SuggestionsFor(word); len(near) > 0 {
		return usage(hint.Add(err, "was %s meant? see meros --help", strings.Join(near, " or ")))
	}
	return usage(hint.Add(err, "see meros --help"))
}
