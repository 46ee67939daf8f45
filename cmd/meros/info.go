package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/layout"
	"meros/internal/lifecycle"
	"meros/internal/ui"
)

type infoOptions struct {
	name   string // a family, a full id, or "": all
	output string // text or json
	check  bool   // fail if a family's filter rules are not as they were loaded
	watch  bool   // again and again
}

func newInfoCmd(e *env) *cobra.Command {
	var o infoOptions
	cmd := &cobra.Command{
		Use:        "info [FAMILY|FULLID]",
		Short:      "Show families, targets, images, and what runs (--info)",
		SuggestFor: []string{"list", "ls", "status", "ps"},
		Long: `Show all families, or one, with their targets: image, kernel, state, address; or
one target with all that is known of it. The JSON form has a version: fields may
be added to it, none change while the version stays.
`,
		Example: `  meros info
  meros info mos_demo-box --watch
  meros info mos_demo --output json`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeGuests(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = strings.Join(args, "")
			if o.watch {
				return watchInfo(cmd.Context(), e, o)
			}
			return info(cmd.Context(), e, o)
		},
	}
	addOutputFlag(cmd, &o.output)
	cmd.Flags().BoolVarP(&o.watch, "watch", "w", false, "show it anew every 2 s, until interrupted")
	cmd.Flags().BoolVar(&o.check, "check", false, "fail if a running family's filter rules are gone, changed or cannot be read")
	return cmd
}

func addOutputFlag(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVar(output, "output", "text", "form of the result: text or json")
	completeWords(cmd, "output", "text", "json")
}

func checkOutput(output string) error {
	if output != "text" && output != "json" {
		return usage(fmt.Errorf("--output is text or json, not %q", output))
	}
	return nil
}

func info(ctx context.Context, e *env, o infoOptions) error {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	if err := e.resolve(); err != nil {
		return err
	}
	only := o.name
	if strings.Contains(o.name, "-") {
		var err error
		if only, _, err = layout.SplitFullID(o.name); err != nil {
			return usage(err)
		}
	}
	i, err := guests(e).Info(ctx, only)
	if err != nil {
		return err
	}
	faulty := filterFaults(e, i)
	if err := showInfo(e, o, i, only); err != nil || !o.check {
		return err
	}
	return faulty
}

// filterFaults warns of rules that are not as they were loaded.
func filterFaults(e *env, i lifecycle.Info) error {
	var faulty []error
	for _, f := range i.Families {
		if f.Filter != "" && f.Filter != lifecycle.FilterOK {
			e.Warn("%s: its filter rules are %s", f.Name, f.Filter)
			err := fmt.Errorf("%s: its filter rules are %s", f.Name, f.Filter)
			faulty = append(faulty, hint.Add(err, "meros policy apply %s loads them again; see what on this host takes them away", f.Name))
		}
	}
	return errors.Join(faulty...)
}

func showInfo(e *env, o infoOptions, i lifecycle.Info, only string) error {
	if i.Libvirt != "ok" {
		e.Warn("the states are not known: %s", i.Libvirt)
	}
	if only != o.name {
		if err := keepTarget(e, &i, o.name); err != nil {
			return err
		}
	}
	switch {
	case o.output == "json":
		return printJSON(e.Out, i)
	case only != o.name:
		return printTarget(e.Out, i.Families[0], i.Families[0].Targets[0])
	}
	return printFamilies(e, i)
}

// keepTarget leaves one target in i.
func keepTarget(e *env, i *lifecycle.Info, fullID string) error {
	f := &i.Families[0]
	at := slices.IndexFunc(f.Targets, func(t lifecycle.TargetInfo) bool { return t.FullID == fullID })
	if at < 0 {
		_, _, err := family.LoadTarget(e.Paths, fullID)
		return err
	}
	f.Targets, f.Networks = f.Targets[at:at+1], []lifecycle.NetworkInfo{}
	return nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func printFamilies(e *env, i lifecycle.Info) error {
	w := tabwriter.NewWriter(e.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tIMAGE\tBUILT\tKERNEL\tADDRESS\tREMARKS")
	for _, f := range i.Families {
		if f.Fault != "" {
			e.Warn("%s: %s", f.Name, f.Fault)
		}
		for _, t := range f.Targets {
			size, built := imageColumns(t.Image)
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.FullID, t.State, size, built, orDash(t.Kernel), orDash(address(t)), orDash(inShort(t)))
		}
		for _, n := range f.Networks {
			fmt.Fprintf(w, "%s (network)\t%s\t-\t-\t-\t-\t-\n", ui.Clean(n.Name), n.State)
		}
	}
	return w.Flush()
}

func printTarget(out io.Writer, f lifecycle.FamilyInfo, t lifecycle.TargetInfo) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	rows := append(builtRows(t), runningRows(t)...)
	for _, row := range append(rows, policyRows(f, t)...) {
		fmt.Fprintf(w, "%s\t%s\n", row[0], orDash(row[1]))
	}
	return w.Flush()
}

// builtRows are what is known of a target whether it runs or not.
func builtRows(t lifecycle.TargetInfo) [][2]string {
	size, built := imageColumns(t.Image)
	file, disk := "none: meros build "+strings.Replace(t.FullID, "-", " ", 1)+" makes it", ""
	if t.Brought {
		file = "none: you bring it: meros import " + t.FullID + " FILE"
	}
	if i := t.Image; i != nil {
		file, disk = i.File, amount(uint64(i.Disk>>20), "MiB")
		if i.Recipe == lifecycle.RecipeChanged {
			built += ", and the recipe has changed since: meros build renews it"
		}
	}
	return [][2]string{
		{"target", t.FullID},
		{"state", string(t.State)},
		{"address", address(t)},
		{"user", t.User},
		{"system", strings.TrimSpace(t.Distro + " " + t.Release)},
		{"kernel", kernelRow(t)},
		{"kernel from", t.Origin},
		{"image", file},
		{"size", size},
		{"disk", disk},
		{"built", built},
		{"console log", t.Console},
	}
}

func kernelRow(t lifecycle.TargetInfo) string {
	row := strings.TrimSpace(t.Kernel + " " + t.Version)
	if t.RecipeKernel != "" {
		row += ", and the recipe says " + t.RecipeKernel + ": meros build takes that one"
	}
	return row
}

// runningRows are what is known of a guest that runs.
func runningRows(t lifecycle.TargetInfo) [][2]string {
	return [][2]string{
		{"running since", since(t)},
		{"memory", amount(t.MemoryMiB, "MiB")},
		{"processors", amount(uint64(t.CPUs), fmt.Sprintf("(%.1f s used)", t.CPUSeconds))},
		{"written", amount(uint64(t.Written>>10), "KiB")},
		{"remarks", remarks(t)},
	}
}

// policyRows are what the policy says of a target.
func policyRows(f lifecycle.FamilyInfo, t lifecycle.TargetInfo) [][2]string {
	if !f.Policy {
		return [][2]string{{"policy", "none: nothing says whom it may reach"}}
	}
	state := "not loaded: nothing of the family runs"
	if f.Filter != "" {
		state = "its rules in the kernel: " + f.Filter
	}
	rows := [][2]string{{"policy", state}}
	for _, line := range t.Policy {
		rows = append(rows, [2]string{"allowed", line})
	}
	return rows
}

func since(t lifecycle.TargetInfo) string {
	if t.Started == nil {
		return ""
	}
	return fmt.Sprintf("%s, for %s", t.Started.Local().Format("2006-01-02 15:04:05"), time.Since(*t.Started).Round(time.Second))
}

func amount(n uint64, unit string) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d %s", n, unit)
}

// remarks is what of a guest a person should know.
func remarks(t lifecycle.TargetInfo) string {
	var words []string
	if t.Why != "" {
		words = append(words, t.Why)
	}
	if t.Disposable {
		words = append(words, "disposable: what it writes is thrown away")
	}
	if t.Stale {
		words = append(words, "stale: recipe or image have changed since it was started")
	}
	return strings.Join(words, "; ")
}

// inShort is the same in few words.
func inShort(t lifecycle.TargetInfo) string {
	var words []string
	if t.Why != "" {
		words = append(words, t.Why)
	}
	if t.Disposable {
		words = append(words, "disposable")
	}
	if t.Stale {
		words = append(words, "runs an older recipe or image")
	}
	if t.Image != nil && t.Image.Recipe == lifecycle.RecipeChanged {
		words = append(words, "image is older than the recipe")
	}
	if t.RecipeKernel != "" {
		words = append(words, "the recipe's kernel is "+t.RecipeKernel)
	}
	if t.Image == nil && t.Optional {
		words = append(words, "optional")
	}
	if t.Image == nil && t.Brought {
		words = append(words, "you bring its image: meros import")
	}
	return strings.Join(words, "; ")
}

func imageColumns(i *lifecycle.ImageInfo) (size, built string) {
	if i == nil {
		return "none", "-"
	}
	return fmt.Sprintf("%d MiB", i.Bytes>>20), i.Built.Local().Format("2006-01-02 15:04")
}

func address(t lifecycle.TargetInfo) string {
	if t.Address == "" {
		return ""
	}
	return fmt.Sprintf("%s port %d", t.Address, t.SSHPort)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
