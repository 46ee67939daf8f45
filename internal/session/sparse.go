package session

import (
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// blockSize is what files are stored in: st_blocks counts units of 512 bytes,
// file systems give room in units of 4 KiB.
const blockSize = 4 << 10

// hasHoles reports whether a file takes less room than it has bytes.
func hasHoles(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Blocks*512 < st.Size-blockSize
}

// extent is a part of a file.
type extent struct{ from, till int64 }

// dataExtents returns the parts of a file, from one offset on, that are not holes:
// lseek(2), SEEK_DATA. Of what has none, it returns all.
func dataExtents(src source, from, size int64) []extent {
	f, ok := src.(*os.File)
	if !ok {
		return []extent{{from, size}}
	}
	var parts []extent
	for at := from; at < size; {
		data, err := f.Seek(at, unix.SEEK_DATA)
		if err != nil || data >= size {
			if err != nil && !isNoData(err) {
				return []extent{{from, size}}
			}
			break
		}
		hole, err := f.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return []extent{{from, size}}
		}
		parts = append(parts, extent{data, min(hole, size)})
		at = hole
	}
	return parts
}

// isNoData reports whether an error says that only a hole is left.
func isNoData(err error) bool {
	e, ok := err.(*fs.PathError)
	return ok && e.Err == unix.ENXIO
}

// inChunks cuts parts into pieces of at most that many bytes.
func inChunks(parts []extent, size int64) []extent {
	var chunks []extent
	for _, p := range parts {
		for at := p.from; at < p.till; at += size {
			chunks = append(chunks, extent{at, min(at+size, p.till)})
		}
	}
	return chunks
}

func allZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeroBlock))
		if string(b[:n]) != string(zeroBlock[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

var zeroBlock [blockSize]byte

// sparseWriter writes a file from an offset on and leaves holes where blocks are
// zero. Call finish.
type sparseWriter struct {
	f   *os.File
	at  int64
	end int64 // of what was written, not left out
}

// Write implements io.Writer.
func (w *sparseWriter) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n := min(len(b)-done, blockSize-int(w.at%blockSize))
		if n == blockSize && allZero(b[done:done+n]) {
			done, w.at = done+n, w.at+blockSize
			continue
		}
		// As many blocks as are not zero are written at once.
		for done+n < len(b) && !(len(b)-done-n >= blockSize && allZero(b[done+n:done+n+blockSize])) {
			n += min(blockSize, len(b)-done-n)
		}
		m, err := w.f.WriteAt(b[done:done+n], w.at)
		done, w.at = done+m, w.at+int64(m)
		w.end = w.at
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// finish gives the file its length where it ends with a hole.
func (w *sparseWriter) finish() error {
	if w.end < w.at {
		return w.f.Truncate(w.at)
	}
	return nil
}

var _ io.Writer = (*sparseWriter)(nil)
