package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"meros/internal/proc"
)

// Snapshot is a state of a disk that its qcow2 file keeps (qemu-img(1)).
type Snapshot struct {
	Name  string    `json:"name"`
	Taken time.Time `json:"taken"`
}

// ErrNoSnapshot says that an image has no snapshot of that name.
var ErrNoSnapshot = errors.New("there is no such snapshot")

// Snapshots lists the snapshots of the qcow2 image at path, oldest first.
func Snapshots(ctx context.Context, r proc.Runner, path string) ([]Snapshot, error) {
	var out strings.Builder
	err := r.Run(ctx, proc.Cmd{Argv: []string{"qemu-img", "info", "--output=json", "-f", "qcow2", path}, Stdout: &out})
	if err != nil {
		return nil, fmt.Errorf("list the snapshots of %s: %w", path, err)
	}
	var info struct {
		Snapshots []struct {
			Name string `json:"name"`
			Sec  int64  `json:"date-sec"`
		} `json:"snapshots"`
	}
	if err := json.Unmarshal([]byte(out.String()), &info); err != nil {
		return nil, fmt.Errorf("list the snapshots of %s: what qemu-img says: %w", path, err)
	}
	found := []Snapshot{}
	for _, s := range info.Snapshots {
		found = append(found, Snapshot{s.Name, time.Unix(s.Sec, 0).UTC()})
	}
	slices.SortStableFunc(found, func(a, b Snapshot) int { return a.Taken.Compare(b.Taken) })
	return found, nil
}

// SnapshotAct is what can be done with a snapshot: qemu-img's own flags.
type SnapshotAct string

// The acts.
const (
	TakeSnapshot    SnapshotAct = "-c"
	RestoreSnapshot SnapshotAct = "-a"
	RemoveSnapshot  SnapshotAct = "-d"
)

// ChangeSnapshot does act with the snapshot called name of the qcow2 image at path,
// which nobody may have open. It does not end with ctx: it takes well under a
// second, and changes the image's tables where they are.
func ChangeSnapshot(ctx context.Context, r proc.Runner, act SnapshotAct, path, name string) error {
	ctx = context.WithoutCancel(ctx)
	return r.Run(ctx, proc.Cmd{Argv: []string{"qemu-img", "snapshot", "-q", string(act), name, path}})
}
