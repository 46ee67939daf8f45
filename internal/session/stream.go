package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/pkg/sftp"

	"meros/internal/hint"
	"meros/internal/ui"
)

// PushStream makes the input a file of the guest, to, from the user's home or
// absolute. It appears there when the input has ended.
func PushStream(ctx context.Context, c *Conn, s *ui.Streams, to string) (done Summary, where string, err error) {
	started := time.Now()
	dir, name := path.Split(to)
	if name == "" || name == "." || name == ".." {
		return Summary{}, "", hint.Add(errors.New("the input has no name"), "name the file in the guest: --to FOLDER/FILE")
	}
	if dir == "" {
		dir = "~"
	}
	dir, label, err := homeDir(dir, "")
	if err != nil {
		return Summary{}, "", err
	}
	client, stop, err := c.files(ctx, cleanupGrace)
	if err != nil {
		return Summary{}, "", causeOr(ctx, err)
	}
	defer stop()
	in, stopIn := endable(ctx, c, client, s.In)
	defer stopIn()
	p := &pusher{
		conn: c, streams: s, guest: client, to: dir, run: runName(), partial: map[string]bool{},
		parcel: &parcel{open: func(string) (source, error) { return streamed{in}, nil }},
	}
	_, p.replaces = client.HasExtension("posix-rename@openssh.com")
	p.progress = showProgress(s, "pushing to "+c.fullID, unknown)
	defer p.progress.end()
	err = client.MkdirAll(dir)
	if err == nil {
		err = p.file(ctx, sent{rel: name, perm: 0o644, size: -1, mtime: started})
	}
	if err != nil {
		p.cleanUp()
		return Summary{}, "", causeOr(ctx, c.fault(err))
	}
	return Summary{Files: 1, Bytes: p.moved.Load(), Took: time.Since(started)}, c.fullID + ":" + label + name, nil
}

// endable returns an input that also ends with ctx and with the guest's SFTP server: a
// read of the input itself cannot be ended, and may wait for as long as it likes. Call
// stop.
func endable(ctx context.Context, c *Conn, client *sftp.Client, in io.Reader) (r io.Reader, stop func() bool) {
	r, w := io.Pipe()
	go func() {
		defer ui.Guard()
		_, err := io.Copy(w, in)
		w.CloseWithError(err)
	}()
	go func() {
		defer ui.Guard()
		_ = client.Wait()
		w.CloseWithError(c.fault(errors.New("the guest's SFTP server ended")))
	}()
	return r, context.AfterFunc(ctx, func() { w.CloseWithError(context.Cause(ctx)) })
}

// streamed is input as a source.
type streamed struct{ io.Reader }

// ReadAt implements io.ReaderAt.
func (streamed) ReadAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }

// Close implements io.Closer: the input is not ours to close.
func (streamed) Close() error { return nil }

// PullStream writes a file of the guest to Out, as it stands.
func PullStream(ctx context.Context, c *Conn, s *ui.Streams, o PullOptions) error {
	o.fill()
	if _, ok := ui.Terminal(s.Out); ok {
		return hint.Add(errors.New("a guest's file is not written to a terminal, which it could drive"), "send the output to a file or a program")
	}
	file, label, err := homeDir(o.From, "")
	if err != nil {
		return err
	}
	client, stop, err := c.files(ctx, 0)
	if err != nil {
		return causeOr(ctx, err)
	}
	defer stop()
	info, err := client.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the guest has no file %s", label[:len(label)-1])
	}
	if err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s in the guest is no file", label[:len(label)-1])
	}
	if err != nil {
		return causeOr(ctx, c.fault(err))
	}
	src, err := client.Open(file)
	if err != nil {
		return causeOr(ctx, c.fault(err))
	}
	defer src.Close()
	shown := &progress{}
	if isFile(s.Out) { // what reads a pipe may write to the terminal, from where a line that is redrawn takes its lines
		shown = showProgress(s, "pulling from "+c.fullID, info.Size())
	}
	defer shown.end()
	left := o.MaxSize
	n, err := src.WriteTo(counted{s.Out, func(n int) error {
		shown.moved(n)
		if left -= int64(n); left < 0 {
			return localFault{tooBig(o.MaxSize)}
		}
		return nil
	}})
	if err == nil && n < info.Size() {
		err = fmt.Errorf("%s ended after %d of %d bytes", label[:len(label)-1], n, info.Size())
	}
	return causeOr(ctx, c.fault(err))
}

// isFile reports whether a stream is a file of the host.
func isFile(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular()
}
