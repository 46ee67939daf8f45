package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newCompletionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print what completes command lines in a shell",
		Long: `Print the script by which a shell completes commands, flags, families and
targets. make install puts it where shells look by themselves.
`,
		Example: `  source <(meros completion bash)  # for this shell
  meros completion fish >~/.config/fish/completions/meros.fish`,
		Args:      cobra.ExactArgs(1),
		ValidArgs: []cobra.Completion{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			}
			return usage(fmt.Errorf("completion: no shell %q is known: want bash, zsh or fish", args[0]))
		},
	}
}
