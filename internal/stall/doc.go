// Package stall gives up on servers that take a request and then fall silent. A
// download may take as long as it likes for as long as something comes: what is
// bounded is the time in which nothing does.
package stall
