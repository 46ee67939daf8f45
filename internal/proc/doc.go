// Package proc runs programs of the host. It is the only package that may
// import os/exec.
//
// A program is an argument vector, never a shell's command line; it dies with
// its context, and with meros itself. The package knows nothing of what it runs.
package proc
