package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"meros/internal/netfilter"
)

func TestMain(m *testing.M) {
	if netfilter.IsChild(os.Args) { // of a meros that proves rules
		os.Exit(netfilter.Child())
	}
	testscript.Main(m, map[string]func(){"meros": main})
}

// TestScript runs the command lines in testdata/script. None of them reaches the
// host's libvirt, and none needs root.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("MEROS_UPDATE") != "",
		Setup:               setUp,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"status": status},
	})
}

// setUp gives a script the shipped families in $WORK/shipped, one written for the older
// meros in $WORK/older, a libvirt that is not there, and two words that are hard to write in a script.
func setUp(e *testscript.Env) error {
	e.Setenv("MEROS_LIBVIRT_URI", "qemu:///system?socket="+filepath.Join(e.WorkDir, "no-socket"))
	e.Setenv("NAME200", strings.Repeat("a", 200))
	e.Setenv("ESC", "\x1b")
	e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
	return errors.Join(
		os.CopyFS(filepath.Join(e.WorkDir, "shipped", "conf"), os.DirFS("../../conf")),
		os.CopyFS(filepath.Join(e.WorkDir, "older", "conf"), os.DirFS("../../internal/family/testdata/valid-older-pair/conf")),
	)
}

// status runs a program and holds its exit status against a number:
//
//	status 2 meros build
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N PROGRAM [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[interface {
			error
			ExitCode() int
		}](err)
		if !ok {
			ts.Fatalf("%s: %v", args[1], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}
