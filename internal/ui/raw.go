package ui

import (
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"golang.org/x/term"
)

// Endings are the signals that end a process written in Go unless it asks for them;
// the others it leaves unheeded, but for SIGPIPE and those of the runtime's own.
var Endings = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGABRT}

// restore puts the terminal back that Raw has made raw; nil: none is. It is the
// process's, as the terminal and the end of all by a panic are.
var restore atomic.Pointer[func()]

// Raw runs body with the terminal raw: each key reaches body at once, unchanged.
// It is put back as it was however body ends, if all goroutines that run meanwhile
// defer Guard. Meanwhile a write to an output that nobody reads any more is an
// error, and not the end of the process, as it is else for stdout and stderr.
func Raw(tty *os.File, body func() error) error {
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	defer signal.Stop(broken)
	was, err := term.MakeRaw(int(tty.Fd()))
	if err != nil {
		return err
	}
	back := func() { _ = term.Restore(int(tty.Fd()), was) }
	restore.Store(&back)
	defer func() {
		back()
		restore.Store(nil)
	}()
	return body()
}

// Guard is deferred by goroutines: if one panics while the terminal is raw, it is put
// back before the panic ends the process.
func Guard() {
	back := restore.Load()
	if back == nil {
		return
	}
	if p := recover(); p != nil {
		(*back)()
		panic(p)
	}
}
