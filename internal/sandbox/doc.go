// Package sandbox runs one step of a build in namespaces of its own.
//
// A step is a Go function, named in a table that main hands to Init. Run starts
// meros once more as the first process of a new mount and PID namespace, which
// lays the step's overlay, calls the function and ends. So no mount and no
// process can outlive a step, whichever way it ends: the kernel drops them with
// the namespace (mount_namespaces(7), pid_namespaces(7)).
//
// The package knows nothing of what its steps do.
package sandbox
