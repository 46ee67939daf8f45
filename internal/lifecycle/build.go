package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"meros/internal/device"
	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/image"
	"meros/internal/layout"
	"meros/internal/mirror"
	"meros/internal/proc"
	"meros/internal/rootfs"
	"meros/internal/sandbox"
	"meros/internal/session"
	"meros/internal/store"
	"meros/internal/ui"
)

// Builder builds the images of a family's targets.
type Builder struct {
	*ui.Streams
	Runner proc.Runner
	Paths  layout.Paths
	Getenv func(string) string // nil: no variables

	// Shared by all targets of one call.
	making  *making
	proxy   *mirror.Proxy
	offline bool
	looks   bool                 // for a plan: nothing is written
	fresh   string               // the stamp of a refresh; "": none
	kernels map[string]ownKernel // by full id
}

// BuildOptions come from the call.
type BuildOptions struct {
	NoWait  bool // fail at once if another meros works on the family
	NoCache bool // do every stage anew, with the newest packages
	Plan    bool // say what would be done, and do nothing
	Offline bool // take packages and kernels only from what earlier builds downloaded
	Named   bool // the targets were named: none is left out because it is optional
	Jobs    int  // how many targets at once; 0: as processors and memory allow
}

// Build makes or renews the images of the targets. An image that is already
// what the recipe says is left alone.
func (b Builder) Build(ctx context.Context, f *family.Family, targets []*family.Target, o BuildOptions) error {
	b.making, b.offline, b.looks = newMaking(), o.Offline, o.Plan
	if o.NoCache {
		b.fresh = time.Now().UTC().Format(time.RFC3339Nano)
	}
	if o.Plan {
		o.Jobs = 1 // its lines have an order
		return b.targets(ctx, targets, o)
	}
	waiting := func(holder string) { b.Step("waiting for: %s", holder) }
	if o.NoWait {
		waiting = nil
	}
	unlock, err := b.Paths.Lock(ctx, f.Name, "build "+f.Name, waiting)
	if err != nil {
		return err
	}
	defer unlock()
	release, err := b.openStore(ctx).Use()
	if err != nil {
		return err
	}
	defer release()
	if b.kernels, err = b.ownKernels(ctx, targets); err != nil {
		return fmt.Errorf("build %s: %w", f.Name, err)
	}
	if b.proxy, err = b.startProxy(o); err != nil {
		return err
	}
	return errors.Join(b.targets(ctx, targets, o), b.proxy.Close())
}

// targets makes or renews the images, or only plans them.
func (b Builder) targets(ctx context.Context, targets []*family.Target, o BuildOptions) error {
	board := b.Board()
	defer board.Close()
	return b.parallel(targets, o.jobs(len(targets)), func(t *family.Target) error {
		if !t.Rootfs {
			return b.broughtKernel(t, o.Plan)
		}
		why, err := b.leftOut(ctx, t, o)
		if why != nil {
			return b.sayLeftOut(t, why, o.Plan)
		}
		if err == nil {
			err = b.kernels[t.FullID()].err
		}
		if err == nil {
			err = b.target(ctx, t, o, board)
		}
		if err != nil {
			return fmt.Errorf("build %s: %w", t.FullID(), err)
		}
		return nil
	})
}

// startProxy keeps what the build downloads.
func (b Builder) startProxy(o BuildOptions) (*mirror.Proxy, error) {
	if err := b.Paths.MkdirAll(b.Paths.Downloads(), 0o755); err != nil {
		return nil, err
	}
	if _, err := mirror.Sweep(b.Paths.Downloads()); err != nil {
		return nil, err
	}
	return mirror.Start(b.Paths.Downloads(), o.Offline, b.Paths.Owner.Give)
}

// newWork reads the recipe and the host and decides what a target's build is
// made of. It makes nothing of the target.
func (b Builder) newWork(ctx context.Context, t *family.Target) (*work, error) {
	epoch, err := b.epoch()
	if err != nil {
		return nil, err
	}
	stages, err := rootfs.Plan(ctx, b.Runner, t, b.rootfsOptions(t))
	if err != nil {
		return nil, err
	}
	w := &work{Builder: b, t: t, store: b.openStore(ctx), stages: stages, epoch: epoch}
	return w, w.plan()
}

func (b Builder) rootfsOptions(t *family.Target) rootfs.Options {
	epoch, _ := b.epoch() // newWork says what is wrong with it
	o := rootfs.Options{
		Mirrors: b.Paths.Mirrors(), Looks: b.looks, Stamps: b.stamps(), Fresh: b.fresh, HookEnv: epochEnv(epoch),
	}
	b.kernelFiles(t, &o)
	return o
}

// openStore returns the store of the caller's layers.
func (b Builder) openStore(ctx context.Context) store.Store {
	owner := ""
	if uid := os.Geteuid(); uid != 0 {
		owner = fmt.Sprint(uid)
	}
	return store.Open(b.Paths, owner, func(path string) error { return sandbox.Remove(ctx, b.Runner, path) })
}

// work is one target on its way to an image.
type work struct {
	Builder
	t      *family.Target
	store  store.Store
	stages []rootfs.Stage
	pack   packArgs
	epoch  int64         // the latest time that a file may have, in seconds since 1970; 0: any
	key    store.Key     // of the image
	reads  []store.Piece // what key is made of
	log    io.Writer
	line   *ui.Line
}

func (b Builder) target(ctx context.Context, t *family.Target, o BuildOptions, board *ui.Board) error {
	started := time.Now()
	if !o.Plan {
		if _, err := session.MakeKeys(b.Paths, t.FullID()); err != nil {
			return err
		}
	}
	w, err := b.newWork(ctx, t)
	if err != nil {
		return err
	}
	if o.Plan {
		return w.explain()
	}
	if w.upToDate() {
		return w.renewKernel()
	}
	if err := w.ready(); err != nil {
		return err
	}
	logFile, err := b.Paths.OpenLog("build-" + t.FullID())
	if err != nil {
		return err
	}
	defer logFile.Close()
	w.log = io.MultiWriter(logFile, b.Tool())
	w.line = board.Line(t.FullID())
	if err := w.run(ctx); err != nil {
		w.line.End("")
		return hint.Add(err, "everything that was printed is in %s", logFile.Name())
	}
	w.line.End("built in %s", time.Since(started).Round(100*time.Millisecond))
	return nil
}

// ready checks before the long work what would only fail behind it.
func (w *work) ready() error {
	if err := w.unused(); err != nil {
		return err
	}
	if err := sandbox.CheckUser(); err != nil {
		return err
	}
	return image.CheckTools()
}

func (w *work) unused() error { return checkUnused(w.Paths.Image(w.t.FullID()), w.t.FullID()) }

func (w *work) run(ctx context.Context) error {
	if err := w.store.Sweep(); err != nil {
		return err
	}
	if err := w.Paths.MkdirAll(w.chroot(), 0o755); err != nil {
		return err
	}
	var layers []store.Layer
	for i, s := range w.stages {
		l, err := w.stage(ctx, s, layers, w.behind(i))
		if err != nil {
			return err
		}
		layers = append(layers, l)
	}
	settled := make(chan error, 1)
	go func() { settled <- w.store.Settle() }() // the disk writes while the image is packed
	if err := w.packAndPlace(ctx, layers); err != nil {
		return err
	}
	return errors.Join(w.remember(), <-settled)
}

func (w *work) chroot() string { return w.Paths.Chroot(w.t.Family, w.t.Name) }

// stage returns a stage's layer, from the store or made now.
func (w *work) stage(ctx context.Context, s rootfs.Stage, below []store.Layer, percent int) (store.Layer, error) {
	// Targets that share a stage make it once.
	defer w.making.lock(s.Key)()
	if l, ok := w.store.Layer(s.Key); ok {
		return l, nil
	}
	w.line.Stage(percent, "%s", s.Say)
	p, err := w.store.New(s.Key)
	if err != nil {
		return store.Layer{}, err
	}
	err = w.runStage(ctx, s, sandbox.Spec{Step: s.Step, Args: s.Args(p.Out()), Tree: w.tree(below, p)})
	if err == nil {
		err = sameRecipe(s)
	}
	if err != nil {
		return store.Layer{}, errors.Join(sayIfFull(err, w.Paths.Cache()), p.Discard())
	}
	l, err := p.Commit()
	if err == nil && s.Base {
		err = w.stamp(ctx, s.Stamp)
	}
	return l, err
}

// sameRecipe makes sure that what a stage has just read of the recipe is what its key
// was made of, before anything is kept under that key.
func sameRecipe(s rootfs.Stage) error {
	if s.Reread == nil {
		return nil
	}
	now, err := s.Reread()
	if err != nil {
		return fmt.Errorf("read the recipe again: %w", err)
	}
	if now.Sum() == s.Key {
		return nil
	}
	changes := store.Changes(s.Reads, now.Pieces(), rootfs.Below)
	return hint.Add(fmt.Errorf("the recipe changed while it was built: %s", strings.Join(changes, "; ")), "build again")
}

// runStage runs a stage's step with a way to the mirrors.
func (w *work) runStage(ctx context.Context, s rootfs.Stage, spec sandbox.Spec) error {
	way, err := w.proxy.Stage()
	if err != nil {
		return err
	}
	spec.Env = way.Env()
	printed := &ui.Tail{}
	err = sandbox.Run(ctx, w.Runner, spec, io.MultiWriter(w.log, printed))
	if err == nil {
		return way.End(mirror.Good)
	}
	if ctx.Err() != nil {
		return errors.Join(err, way.End(mirror.Failed))
	}
	damaged := s.Fetches && rootfs.Damaged(err)
	if err = withLast(err, printed); damaged {
		advice := "what this stage had of the packages is thrown away, that of earlier builds too: the next build gets it anew"
		if w.offline {
			advice = "what is kept of the packages is damaged: a build without --offline gets it anew"
		}
		err = hint.Add(err, "%s", advice)
		return errors.Join(err, way.End(mirror.Damaged))
	}
	if fault := w.proxy.Fault(); fault != nil && s.Fetches {
		err = hint.Add(err, "what a mirror could not be asked for: %v", fault)
	}
	return errors.Join(err, way.End(mirror.Failed))
}

// stageTail is how many of the lines that a stage printed are told when it fails.
const stageTail = 20

// withLast adds to an error what was printed before it.
func withLast(err error, printed *ui.Tail) error {
	for _, line := range ui.LastLines(printed.String(), stageTail) {
		err = fmt.Errorf("%w\n    %s", err, ui.Clean(line))
	}
	return err
}

// tree is an overlay over layers, if there are any, that writes to p.
func (w *work) tree(below []store.Layer, p *store.Pending) sandbox.Tree {
	tree := sandbox.Tree{Root: w.chroot(), Upper: p.FS(), Work: p.Work()}
	for _, l := range below {
		tree.Lower = append(tree.Lower, l.FS())
	}
	return tree
}

// Steps are the bodies of all that runs in sandboxes, for sandbox.Init.
func Steps() map[string]sandbox.Step {
	steps := rootfs.Steps()
	steps[stepPack] = sandbox.Bind(pack)
	steps[stepMeasure] = sandbox.Bind(measure)
	return steps
}

const stepPack = "pack"

// packArgs are what the last step reads.
type packArgs struct {
	Identity rootfs.Identity
	Image    image.Options
	Out      string
}

// pack adds what makes the tree this target's, and packs it.
func pack(ctx context.Context, r proc.Runner, root string, a packArgs) (err error) {
	if a.Image.Devices, err = device.Take(root); err != nil {
		return err
	}
	if err := rootfs.Finish(ctx, r, root, a.Identity); err != nil {
		return fmt.Errorf("add the target's identity: %w", err)
	}
	return image.Pack(ctx, r, root, a.Out, a.Image)
}

// plan makes the key of the image. One whose target has no keys yet is no image's.
func (w *work) plan() error {
	t := w.t
	keys, err := session.ReadKeys(w.Paths, t.FullID())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	uuids := image.UUIDsOf(t.FullID())
	w.pack = packArgs{
		Identity: rootfs.Identity{
			Hostname: t.Hostname, SSHPort: t.SSHPort, RootUUID: uuids.Root, Init: t.Init,
			AuthorizedKey: keys.AuthorizedKey, HostPrivate: keys.HostPrivate, HostPublic: keys.HostPublic,
		},
		Image: image.Options{Name: t.FullID(), FreeMB: t.FreeMB, UUIDs: uuids, Epoch: imageEpoch},
	}
	if t.HasSession() {
		w.pack.Identity.User = t.User
	}
	if w.epoch != 0 {
		w.pack.Image.Epoch, w.pack.Image.Latest = w.epoch, w.epoch
	}
	id := w.pack.Identity
	key := store.NewKey(stepPack).Add("format", imageFormat).
		Add("name", t.FullID(), id.Hostname).Add("init", string(t.Init)).Add("free space", fmt.Sprint(t.FreeMB)).
		Add("session", id.User, fmt.Sprint(id.SSHPort)).Add("keys", string(id.AuthorizedKey), string(id.HostPublic)).
		Add(rootfs.Below, string(w.stages[len(w.stages)-1].Key))
	if t.Compress {
		key.Add("compression", "zstd")
	}
	if w.epoch != 0 {
		key.Add(epochName, fmt.Sprint(w.epoch))
	}
	for _, tool := range image.Packers(t.Compress) {
		// ready tells of one that is missing.
		if path, err := proc.Find(tool); err == nil {
			if err := key.AddProgram("tool", path); err != nil {
				return err
			}
		}
	}
	w.key, w.reads = key.Sum(), key.Pieces()
	return nil
}

const (
	// imageEpoch is the time that the file system was made, for all images: a
	// build's result must not depend on the clock. 1 January 2020, UTC.
	imageEpoch = 1577836800
	// imageFormat changes when meros packs differently, so that images are renewed.
	imageFormat = "5"
)
