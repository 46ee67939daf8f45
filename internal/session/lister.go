package session

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"
)

// The packets of SFTP that a lister speaks: draft-ietf-secsh-filexfer-02, 3.
const (
	fxpInit     = 1
	fxpVersion  = 2
	fxpClose    = 4
	fxpRead     = 5
	fxpLstat    = 7
	fxpOpendir  = 11
	fxpReaddir  = 12
	fxpStat     = 17
	fxpReadlink = 19
	fxpStatus   = 101
	fxpHandle   = 102
	fxpData     = 103
	fxpName     = 104
	fxpAttrs    = 105
)

const (
	sftpVersion = 3
	maxPacket   = 256 << 10 // bytes: what OpenSSH's sftp-server sends at most
)

var errEndless = errors.New("the guest's list has no end")

// lister reads folders and links of a guest as the guest names them: unlike the
// client that copies files, it hides no odd name, and it hands out each list as
// it comes, so that an endless one can be left. It is for one goroutine.
type lister struct {
	end func()
	w   io.Writer
	r   *bufio.Reader
	id  uint32
}

// listed is an entry of a folder as the guest tells it.
type listed struct {
	name  string
	mode  uint32 // as in st_mode; 0 if not told
	size  uint64
	mtime time.Time
}

// newLister starts an SFTP server in the guest. When ctx ends, what is under way does
// after grace.
func newLister(ctx context.Context, c *Conn, grace time.Duration) (*lister, error) {
	_, w, r, end, err := c.startSFTP(ctx, grace)
	if err != nil {
		return nil, err
	}
	l := &lister{end: end, w: w, r: bufio.NewReader(r)}
	if err := l.hello(); err != nil {
		end()
		return nil, noSFTP(c.fault(err))
	}
	return l, nil
}

// Close ends the lister's SFTP server.
func (l *lister) Close() { l.end() }

func (l *lister) hello() error {
	if err := l.send(fxpInit, binary.BigEndian.AppendUint32(nil, sftpVersion)); err != nil {
		return err
	}
	kind, p, err := l.receive()
	if err != nil {
		return err
	}
	if version := p.uint32(); kind != fxpVersion || version != sftpVersion {
		return errors.New("the guest's SFTP server speaks another version than 3")
	}
	return nil
}

// list calls visit for every entry of a folder but . and .., until visit fails.
func (l *lister) list(dir string, visit func(listed) error) error {
	handle, err := l.open(dir)
	if err != nil {
		return err
	}
	defer func() { _, _, _ = l.call(fxpClose, handle) }()
	for dots := 0; ; {
		p, err := l.want(fxpName, fxpReaddir, handle)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		count := p.uint32()
		if count == 0 {
			return errEndless
		}
		for range count {
			e := p.listed()
			if p.short {
				return errShort
			}
			if e.name == "." || e.name == ".." {
				if dots++; dots > 2 {
					return errEndless
				}
				continue
			}
			if err := visit(e); err != nil {
				return err
			}
		}
	}
}

// lstat returns what a file, folder or link is; call is fxpLstat, or fxpStat to
// have links followed.
func (l *lister) lstat(call byte, file string) (listed, error) {
	p, err := l.want(fxpAttrs, call, file)
	if err != nil {
		return listed{}, err
	}
	e := p.attrs()
	if p.short {
		return listed{}, errShort
	}
	e.name = path.Base(file)
	return e, nil
}

// readlink returns where a link points.
func (l *lister) readlink(file string) (string, error) {
	p, err := l.want(fxpName, fxpReadlink, file)
	if err != nil {
		return "", err
	}
	count, target := p.uint32(), p.string()
	if p.short || count != 1 {
		return "", errShort
	}
	return target, nil
}

func (l *lister) open(dir string) (string, error) {
	p, err := l.want(fxpHandle, fxpOpendir, dir)
	if err != nil {
		return "", err
	}
	handle := p.string()
	if p.short {
		return "", errShort
	}
	return handle, nil
}

// want makes a call whose answer has to be of one kind. A status is an error.
func (l *lister) want(answer, kind byte, arg string) (*packet, error) {
	got, p, err := l.call(kind, arg)
	switch {
	case err != nil:
		return nil, err
	case got == fxpStatus:
		return nil, p.status(kind)
	case got != answer:
		return nil, fmt.Errorf("the guest's SFTP server answers with a packet of kind %d, want %d", got, answer)
	}
	return p, nil
}

func (l *lister) call(kind byte, arg string) (byte, *packet, error) {
	l.id++
	body := binary.BigEndian.AppendUint32(nil, l.id)
	body = binary.BigEndian.AppendUint32(body, uint32(len(arg)))
	if err := l.send(kind, append(body, arg...)); err != nil {
		return 0, nil, err
	}
	got, p, err := l.receive()
	if err != nil {
		return 0, nil, err
	}
	if id := p.uint32(); id != l.id {
		return 0, nil, errors.New("the guest's SFTP server answers what was not asked")
	}
	return got, p, nil
}

func (l *lister) send(kind byte, body []byte) error {
	p := binary.BigEndian.AppendUint32(nil, uint32(len(body)+1))
	_, err := l.w.Write(append(append(p, kind), body...))
	return err
}

func (l *lister) receive() (byte, *packet, error) {
	var head [5]byte
	if _, err := io.ReadFull(l.r, head[:]); err != nil {
		return 0, nil, fmt.Errorf("the guest's SFTP server ended: %w", io.ErrUnexpectedEOF)
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < 1 || size > maxPacket {
		return 0, nil, fmt.Errorf("the guest's SFTP server sends a packet of %d bytes", size)
	}
	body := make([]byte, size-1)
	if _, err := io.ReadFull(l.r, body); err != nil {
		return 0, nil, fmt.Errorf("the guest's SFTP server ended: %w", io.ErrUnexpectedEOF)
	}
	return head[4], &packet{b: body}, nil
}

// statusErrors are the codes of SSH_FXP_STATUS that are worth telling apart.
var statusErrors = map[uint32]error{
	1: io.EOF, 2: fs.ErrNotExist, 3: fs.ErrPermission,
}

// statusError is what a guest's SFTP server says instead of doing as asked.
type statusError struct{ words string }

func (e *statusError) Error() string { return e.words }
