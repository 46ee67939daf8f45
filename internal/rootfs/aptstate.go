package rootfs

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"meros/internal/proc"
)

// aptFiles are what the answer of hostMirrors depends on. They are looked at
// instead of asking apt every time, which takes it most of a second.
var aptFiles = []string{
	"/etc/apt/sources.list", "/etc/apt/sources.list.d", "/etc/apt/sources.list.d/*",
	"/etc/apt/apt.conf", "/etc/apt/apt.conf.d", "/etc/apt/apt.conf.d/*", "/var/lib/apt/lists",
}

// rememberedMirrors is the content of the file Options.Mirrors.
type rememberedMirrors struct {
	State   []string           `json:"state"`
	Mirrors map[string]mirrors `json:"byDistro"`
}

// mirrors returns the host's mirrors, remembered from an earlier call if apt's
// files are the same.
func (o Options) mirrors(ctx context.Context, r proc.Runner) (map[string]mirrors, error) {
	state := aptState()
	var known rememberedMirrors
	content, err := os.ReadFile(o.Mirrors)
	if err == nil && json.Unmarshal(content, &known) == nil && known.Mirrors != nil && fmt.Sprint(known.State) == fmt.Sprint(state) {
		return known.Mirrors, nil
	}
	m, err := hostMirrors(ctx, r)
	if err != nil || o.Mirrors == "" || o.Looks {
		return m, err
	}
	content, err = json.Marshal(rememberedMirrors{state, m})
	if err != nil {
		return m, err
	}
	// It only saves time, so that it cannot be written is no fault.
	if os.MkdirAll(filepath.Dir(o.Mirrors), 0o755) == nil {
		_ = os.WriteFile(o.Mirrors, content, 0o644)
	}
	return m, nil
}

func aptState() []string {
	var state []string
	for _, pattern := range aptFiles {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			if info, err := os.Stat(file); err == nil {
				state = append(state, fmt.Sprintf("%s %d %d", file, info.Size(), info.ModTime().UnixNano()))
			}
		}
	}
	return state
}
