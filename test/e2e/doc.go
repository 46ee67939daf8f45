// Package e2e holds the end-to-end tests: the built binary, a real bootstrap,
// real guests under libvirt. They need root and run with MEROS_E2E=1 (make test
// sets it).
package e2e
