package session

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
)

// A push that broke off may leave in the guest what was not whole, under names that
// isPartial knows: parts of large files, and the folder to which an archive was unpacked.

// keptFiles is from how many files on what was unpacked is kept when the rest did not come.
const keptFiles = 256

// sweepScript removes from folders what no push has touched for a day, by the clock of
// the guest itself.
const sweepScript = `for d; do find "$d/" -maxdepth 1 -name '.meros-*.partial' -mtime +0 -exec rm -rf {} +; done`

// sweep removes what was left long ago. A guest without find(1) keeps it.
func (p *pusher) sweep(ctx context.Context) error {
	if len(p.partials) == 0 {
		return nil
	}
	var dirs []string
	for _, dir := range p.partials {
		dirs = append(dirs, fromHere(dir))
	}
	_, err := p.conn.run(ctx, nil, 0, sweepScript, dirs...)
	if errors.Is(err, ErrLost) || ctx.Err() != nil {
		return causeOr(ctx, err)
	}
	return nil
}

// stage names the folder to which the run of a push unpacks its archive. All runs of
// the same push begin it alike.
func (p *pusher) stage(run string) string {
	var named []string
	for _, all := range [][]sent{p.folders, p.files, p.links} {
		for _, s := range all {
			if !strings.Contains(s.rel, "/") {
				named = append(named, s.rel)
			}
		}
	}
	slices.Sort(named)
	key := sha256.Sum256([]byte(strings.Join(named, "\x00")))
	name := fmt.Sprintf(".meros-%x-%s.partial", key[:6], run)
	return fromHere(path.Join(p.to, name))
}

// adoptScript takes over the folder of a run that is over: the process that unpacked is.
const adoptScript = `for d in "$1"*.partial; do
	[ -d "$d" ] && [ ! -L "$d" ] && pid=$(cat "$d/.meros-pid") && ! kill -0 "$pid" 2>/dev/null && mv -- "$d" "$2" && exit 0
done; exit 1`

// adoptStage takes over what an earlier run of this push has unpacked, and returns which
// of the files are whole in it: tar gives a file its time once it has all its bytes.
func (p *pusher) adoptStage(ctx context.Context, stage string, files []sent) (whole map[string]bool, err error) {
	if !slices.Contains(p.partials, p.to) {
		return nil, nil
	}
	_, err = p.conn.run(ctx, nil, 0, adoptScript, strings.TrimSuffix(stage, p.run+".partial"), stage)
	if errors.Is(err, ErrLost) || ctx.Err() != nil {
		return nil, causeOr(ctx, err)
	}
	if err != nil {
		return nil, nil // there is none
	}
	l, err := newLister(ctx, p.conn, cleanupGrace)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	there, whole := map[string]listed{}, map[string]bool{}
	for _, f := range files {
		dir := path.Dir(f.rel)
		if _, seen := there[dir+"/"]; !seen {
			there[dir+"/"] = listed{}
			err := l.list(path.Join(stage, dir), func(e listed) error {
				if len(there) > 2*maxSurvey {
					return errEndless
				}
				there[path.Join(dir, e.name)] = e
				return nil
			})
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("look into %s: %w", stage, err)
			}
		}
		if e, ok := there[f.rel]; ok && e.mode&syscall.S_IFMT == syscall.S_IFREG && e.size == uint64(f.size) && e.mtime.Unix() == f.mtime.Unix() {
			whole[f.rel] = true
			p.resumed++
			p.progress.moved(int(f.size))
		}
	}
	if len(whole) > 0 {
		p.streams.Step("%d files are there already", len(whole))
	}
	return whole, nil
}
