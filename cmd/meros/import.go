package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"meros/internal/family"
	"meros/internal/image"
	"meros/internal/lifecycle"
)

type importOptions struct {
	fullID  string
	file    string
	format  string
	replace bool
}

func newImportCmd(e *env) *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Use:   "import FULLID FILE",
		Short: "Make a file the image of a target that the recipe does not build",
		Long: `Make a file that you bring the image of a target which has a libvirt document but
no build file. A disk, raw, qcow2, vmdk, vdi, vhdx or in an ova, is converted to
qcow2; an iso becomes the target's CD-ROM. The file is only read.

A file that names other files, as a backing file or for its data, is refused: it
could name any file of this host. An ova has to be what its manifest, if it has
one, says.
`,
		Example: `  meros import mos_lab-victim victim.ova
  meros import mos_lab-victim live.iso
  meros import mos_lab-victim disk.bin --format raw --replace`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeTargetFiles(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.fullID, o.file = args[0], args[1]
			return importImage(cmd.Context(), e, o)
		},
	}
	cmd.Flags().StringVar(&o.format, "format", "", "what the file is: raw, qcow2, vmdk, vdi, vhdx, ova or iso (default: told by its content)")
	cmd.Flags().BoolVar(&o.replace, "replace", false, "replace an image that is there")
	completeWords(cmd, "format", "raw", "qcow2", "vmdk", "vdi", "vhdx", "ova", "iso")
	return cmd
}

func importImage(ctx context.Context, e *env, o importOptions) error {
	format := image.Format(o.format)
	if format != "" && !slices.Contains(image.Formats, format) {
		return usage(fmt.Errorf("--format: %q is no format: want raw, qcow2, vmdk, vdi, vhdx, ova or iso", o.format))
	}
	if err := e.resolve(); err != nil {
		return err
	}
	_, t, err := family.LoadTarget(e.Paths, o.fullID)
	if err != nil {
		return err
	}
	return guests(e).Import(ctx, t, o.file, lifecycle.ImportOptions{Format: format, Replace: o.replace})
}
