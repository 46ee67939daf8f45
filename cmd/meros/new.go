package main

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"meros/conf"
	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/layout"
	"meros/internal/virt"
)

// copied is the family that is laid when none is named.
const copied = "mos_demo"

type newOptions struct {
	name string
	from string // a shipped family; "": the one of that name, else copied
}

func newNewCmd(e *env) *cobra.Command {
	var o newOptions
	shipped := shippedFamilies()
	cmd := &cobra.Command{
		Use:        "new FAMILY",
		Short:      "Lay a new family, ready to build, as a copy of a shipped one",
		SuggestFor: []string{"create", "clone", "add"},
		Long: `Lay a new family in conf/target/FAMILY/, as a copy of one that meros ships. The
copy has a name, bridges, subnets and MAC addresses of its own, which no other
family and no network of this host has. Nothing that is there is overwritten.

The root is the one that other commands would take; where there is none yet it is
made: the folder of --root or MEROS_ROOT, else your own, in $XDG_DATA_HOME/meros.
`,
		Example: `  meros new mos_demo              # the shipped family of that name
  meros new my_lab --from mos_demo`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.FixedCompletions(shipped, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(_ *cobra.Command, args []string) error {
			o.name = args[0]
			return newFamily(e, o)
		},
	}
	cmd.Flags().StringVar(&o.from, "from", "", "the shipped `family` to copy: "+strings.Join(shipped, ", "))
	completeWords(cmd, "from", shipped...)
	return cmd
}

func newFamily(e *env, o newOptions) error {
	shipped := shippedFamilies()
	switch {
	case o.from == "" && slices.Contains(shipped, o.name):
		o.from = o.name
	case o.from == "":
		o.from = copied
	case !slices.Contains(shipped, o.from):
		return usage(hint.Add(fmt.Errorf("new: no family %q is shipped", o.from), "there are: %s", strings.Join(shipped, ", ")))
	}
	if err := e.resolveNew(); err != nil {
		return err
	}
	taken, err := hostTakes()
	if err != nil {
		return err
	}
	if err := family.Lay(e.Paths, conf.Families, "target/"+o.from, o.from, o.name, taken); err != nil {
		return err
	}
	if err := family.LayKernel(e.Paths, conf.Kernel, "kernel"); err != nil {
		return err
	}
	e.Step("laid %s, a copy of %s; next: meros build %s", o.name, o.from, o.name)
	_, err = fmt.Fprintln(e.Out, e.Paths.Family(o.name))
	return err
}

// resolveNew finds the root folder, or where it is to be.
func (e *env) resolveNew() error {
	dir, err := currentDir()
	if err != nil {
		return err
	}
	root, err := layout.NewRoot(e.rootFlag, e.Getenv, dir)
	if err != nil {
		return usage(err)
	}
	e.Paths = layout.Paths{Root: root, Owner: layout.SudoOwner(os.Geteuid(), e.Getenv)}
	return nil
}

// hostTakes is what the host's own network has in use.
func hostTakes() (family.Taken, error) {
	host, err := virt.ReadHostNet()
	taken := family.Taken{Bridges: host.Links}
	for _, r := range slices.Concat(host.Routes, host.Addrs) {
		taken.Subnets = append(taken.Subnets, r.Subnet)
	}
	return taken, err
}

// shippedFamilies names what is embedded, of which a fault is a fault of the build.
func shippedFamilies() []string {
	entries, _ := fs.ReadDir(conf.Families, "target")
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}
