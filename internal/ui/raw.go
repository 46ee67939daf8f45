package ui

import (
	"os"

	"golang.org/x/term"
)

// Raw runs body with the terminal raw: each key reaches body at once, unchanged.
// It is put back as it was however body ends; goroutines of body defer guard,
// which puts it back if they panic.
func Raw(tty *os.File, body func(guard func()) error) error {
	was, err := term.MakeRaw(int(tty.Fd()))
	if err != nil {
		return err
	}
	restore := func() { _ = term.Restore(int(tty.Fd()), was) }
	defer restore()
	return body(func() {
		if p := recover(); p != nil {
			restore()
			panic(p)
		}
	})
}
