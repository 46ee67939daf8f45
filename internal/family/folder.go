package family

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// headSize is how much of a hook is looked at; the kernel reads as much of a #!
// line (execve(2), BINPRM_BUF_SIZE).
const headSize = 256

// loader reads one recipe. All its paths are relative to the recipe's folder and
// go through root, which follows no link out of it.
type loader struct {
	root   *os.Root
	dir    string // the recipe's folder, absolute
	rel    string // the same relative to the root, for faults
	family *Family
	report *report
}

// file returns the place for the faults of a path.
func (l *loader) file(name string) *file { return l.report.file(path.Join(l.rel, name)) }

func (l *loader) abs(name string) string { return filepath.Join(l.dir, filepath.FromSlash(name)) }

// entries lists a folder by name, less what editors and version control leave.
// A folder that is not there is empty; ok is false for one that cannot be read.
func (l *loader) entries(folder string) (kept []fs.DirEntry, ok bool) {
	all, err := fs.ReadDir(l.root.FS(), folder)
	if errors.Is(err, fs.ErrNotExist) && !l.there(folder) {
		return nil, true
	}
	if err != nil {
		l.cannot(l.file(folder), folder, err)
		return nil, false
	}
	for _, e := range all {
		if !strings.HasPrefix(e.Name(), ".") && !strings.HasSuffix(e.Name(), "~") {
			kept = append(kept, e)
		}
	}
	return kept, true
}

// named lists the entries of a folder that end in suffix, as paths.
func (l *loader) named(folder, suffix string) []string {
	var names []string
	entries, _ := l.entries(folder)
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) {
			names = append(names, path.Join(folder, e.Name()))
		}
	}
	return names
}

// there reports whether a path exists, be it as a link to nothing.
func (l *loader) there(name string) bool {
	_, err := l.root.Lstat(name)
	return err == nil
}

// isDir reports whether there is a folder of that name. Something else of that
// name is a fault.
func (l *loader) isDir(name string) bool {
	info, err := l.root.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !l.there(name):
		return false
	case err != nil:
		l.cannot(l.file(name), name, err)
		return false
	case !info.IsDir():
		l.file(name).fault(0, "", "must be a folder")
	}
	return info.IsDir()
}

// read returns what a file holds, up to limit bytes and one.
func (l *loader) read(f *file, name string, limit int64) ([]byte, fs.FileInfo, bool) {
	// Opening a pipe would wait for a writer: open(2), O_NONBLOCK.
	opened, err := l.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		l.cannot(f, name, err)
		return nil, nil, false
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err == nil && !info.Mode().IsRegular() {
		f.fault(0, "", "must be a regular file")
		return nil, nil, false
	}
	data, readErr := io.ReadAll(io.LimitReader(opened, limit+1))
	if err := errors.Join(err, readErr); err != nil {
		l.cannot(f, name, err)
		return nil, nil, false
	}
	return data, info, true
}

// readDocument returns the content of an XML file.
func (l *loader) readDocument(f *file, name string) ([]byte, bool) {
	data, _, ok := l.read(f, name, maxXML)
	if ok && len(data) > maxXML {
		f.fault(1, "", "the file is over 1 MiB: no recipe is")
		return nil, false
	}
	return data, ok
}

// cannot notes why something could not be read, in words.
func (l *loader) cannot(f *file, name string, err error) {
	info, statErr := l.root.Lstat(name)
	link := statErr == nil && info.Mode()&fs.ModeSymlink != 0
	switch {
	case errors.Is(err, fs.ErrPermission):
		f.advise("let your user read "+f.path+": chmod u+rX, or chown if it is another's", "cannot be read: permission denied")
	case escapes(err):
		f.advise("copy the file into the family's folder, or make the link relative",
			"a link out of the family's folder is not followed")
	case link && errors.Is(err, fs.ErrNotExist):
		f.fault(0, "", "a link to nothing")
	case errors.Is(err, syscall.ENOTDIR):
		f.fault(0, "", "must be a folder")
	case errors.Is(err, syscall.ENXIO): // a socket: open(2)
		f.fault(0, "", "must be a regular file")
	default:
		f.fault(0, "", "cannot be read: %s", reason(err))
	}
}

// escapes tells os.Root's refusal to leave the folder from other errors. It has
// no sentinel for it (Go 1.26).
func escapes(err error) bool { return reason(err) == "path escapes from parent" }

// reason is what is left of an error without the operation and path.
func reason(err error) string {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}

// hooks checks the programs of a folder and returns their absolute paths in the
// order they are to run. What is named as one of phases is passed over.
func (l *loader) hooks(folder string, phases ...string) []string {
	var paths []string
	entries, _ := l.entries(folder)
	for _, e := range entries {
		name := path.Join(folder, e.Name())
		if l.isPhase(name, phases) {
			continue
		}
		f := l.file(name)
		head, info, ok := l.read(f, name, headSize)
		if !ok {
			continue
		}
		if info.Mode()&0o111 == 0 {
			f.advise("chmod +x "+f.path, "the hook has no run bit")
		}
		l.program(f, head)
		paths = append(paths, l.abs(name))
	}
	return paths
}

// program faults what execve(2) would not start.
func (l *loader) program(f *file, head []byte) {
	if bytes.HasPrefix(head, []byte("\x7fELF")) {
		return
	}
	line, ok := bytes.CutPrefix(head, []byte("#!"))
	if !ok {
		f.add(Fault{
			File: f.path, Line: 1, Text: "the hook begins with no #! line and is no ELF program",
			advice: "name the hook's interpreter in its first line, such as #!/bin/sh",
		})
		return
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	interpreter := bytes.TrimLeft(line, " \t")
	switch {
	case !bytes.HasPrefix(interpreter, []byte("/")):
		f.fault(1, "", "the interpreter must be an absolute path, got %s", show(string(line)))
	case bytes.HasSuffix(line, []byte("\r")):
		f.fault(1, "", "the line ends in a carriage return, which would be part of the interpreter's name")
	}
}
