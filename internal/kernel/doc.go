// Package kernel builds the guests' kernel from source: it gets the source and
// verifies it, merges a configuration from fragments, checks that the result has
// all that they ask for, and runs make.
//
// Its words: a fragment is a file of conf/kernel that asks for kernel symbols;
// kernel.conf pins version, source and fragments; a Record says what a built
// kernel was made of. It knows nothing of families or of who boots the kernel.
package kernel
