package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"meros/internal/family"
	"meros/internal/lifecycle"
)

func newCacheCmd(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Show how much the stages of builds take up",
		Long: `Show how many results of build stages are kept in data/build/cache/, and how
much they take up on the disk, with what was downloaded and what kernels are
made of. "cache prune" removes results that no recipe needs any more and
downloads that no build has used for a month. Everything there may be removed
at any time and is made again; what kernels are made of only you remove.
`,
		Example: "  meros cache\n  meros cache prune",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cacheUsage(cmd.Context(), e) },
	}
	cmd.AddCommand(newCachePruneCmd(e))
	return cmd
}

func newCachePruneCmd(e *env) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "prune",
		Short:   "Remove what no build needs any more",
		Example: "  meros cache prune\n  meros cache prune --all",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cachePrune(cmd.Context(), e, all) },
	}
	cmd.Flags().BoolVar(&all, "all", false, "remove all results and downloads")
	return cmd
}

func cacheUsage(ctx context.Context, e *env) error {
	if err := e.resolve(); err != nil {
		return err
	}
	u, err := e.builder().CacheUsage(ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.Out, "%d stage results, %d MiB; downloads, %d MiB; in %s\nwhat kernels are made of, %d MiB; in %s and %s\n",
		u.Stages.Layers, u.Stages.Bytes>>20, u.Downloads>>20, e.Paths.Cache(), u.Kernels>>20, e.Paths.KernelBuild(), e.Paths.CompilerCache())
	return err
}

// cachePrune reads all families: with one that has faults nobody knows what it
// needs, so nothing is removed.
func cachePrune(ctx context.Context, e *env, all bool) error {
	if err := e.resolve(); err != nil {
		return err
	}
	names, err := family.List(e.Paths)
	if err != nil {
		return err
	}
	var families []*family.Family
	for _, name := range names {
		if all {
			break
		}
		f, err := family.Load(e.Paths, name)
		if err != nil {
			return err
		}
		families = append(families, f)
	}
	p, err := e.builder().Prune(ctx, families, all)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.Out, "removed %d stage results and %d downloads\n", p.Stages, p.Downloads)
	return err
}

func (e *env) builder() lifecycle.Builder {
	return lifecycle.Builder{Streams: e.Streams, Runner: e.Runner, Paths: e.Paths, Getenv: e.Getenv}
}
