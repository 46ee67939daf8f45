package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// original maps the flags of the first meros to the subcommands that do the
// same. cobra itself knows -h and -v.
var original = map[string]string{
	"--build": "build", "--init": "init", "-i": "init",
	"--shutdown": "shutdown", "--shutdown-all": "shutdown-all",
	"--connect": "connect", "-c": "connect", "--run": "run",
	"--push": "push", "--pull": "pull", "--info": "info", "--log": "log",
	"--kernel-build": "kernel-build",
}

// globalFlags may stand before a subcommand; true: with a value of their own.
var globalFlags = map[string]bool{"--root": true, "--verbose": false, "--quiet": false, "-q": false}

// modernArgs rewrites a command line in the original spelling as one with a
// subcommand: the flag may stand first (--run T firefox) or after the family or
// target (T --run firefox). Every other command line comes back as it is.
//
// A shell that completes a command line hands it over behind a hidden command,
// and the word that is not whole yet comes last.
func modernArgs(args []string) []string {
	if last := len(args) - 1; last > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		return slices.Concat(args[:1], modernArgs(args[1:last]), args[last:])
	}
	globals, rest := splitGlobals(args)
	switch {
	case len(rest) > 0 && isOriginal(rest[0]):
		rest = modern(rest[0], nil, rest[1:])
	case len(rest) > 1 && !strings.HasPrefix(rest[0], "-") && isOriginal(rest[1]) && !isSubcommand(rest[0]):
		rest = modern(rest[1], rest[:1], rest[2:])
	}
	return slices.Concat(globals, rest)
}

// splitGlobals parts the flags that may stand before a subcommand from the rest.
func splitGlobals(args []string) (globals, rest []string) {
	for i := 0; i < len(args); i++ {
		name, _, hasValue := strings.Cut(args[i], "=")
		takesValue, global := globalFlags[name]
		if !global {
			return args[:i:i], args[i:]
		}
		if takesValue && !hasValue {
			i++
		}
	}
	return args, nil
}

func isOriginal(arg string) bool {
	name, _, _ := strings.Cut(arg, "=")
	return original[name] != ""
}

// isSubcommand tells the few words after which -c or -i is that command's own.
func isSubcommand(word string) bool {
	for _, name := range original {
		if word == name {
			return true
		}
	}
	return word == "exec" || word == "help"
}

func modern(flag string, before, after []string) []string {
	name, value, hasValue := strings.Cut(flag, "=")
	words := append([]string{original[name]}, before...)
	if hasValue {
		words = append(words, value)
	}
	// The first meros wrote "--init target mos_sec-guest" for one target.
	if original[name] == "init" && len(after) == 2 && after[0] == "target" {
		after = after[1:]
	}
	return append(words, after...)
}
