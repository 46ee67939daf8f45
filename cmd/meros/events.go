package main

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"

	"meros/internal/lifecycle"
)

func newEventsCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:        "events",
		Short:      "Stream what happens to guests as JSON lines",
		SuggestFor: []string{"monitor", "follow"},
		Long: `Write a JSON object on a line of its own for every change in the life of a guest of
this root, until interrupted: started, paused, resumed, shutting down, off or
crashed, with the time, the full id, and why where libvirt says so. The form has a
version, as that of info has.
`,
		Example:           `  meros events | jq -r '.fullId + " " + .event'`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return events(cmd.Context(), e)
		},
	}
}

func events(ctx context.Context, e *env) error {
	if err := e.resolve(); err != nil {
		return err
	}
	lines := json.NewEncoder(e.Out)
	return guests(e).Events(ctx, func(event lifecycle.Event) error { return lines.Encode(event) })
}
